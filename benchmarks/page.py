"""The building blocks of the report as HTML text: page, table, plot, note. A cell is text that is HTML already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

CSS = """
:root{--ink:#1c2430;--soft:#5f6b7a;--line:#e1e5ea;--good:#0a7f4f;--bad:#c0262d;--none:#7a828c}
*{box-sizing:border-box}
body{margin:0;font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--ink);background:#fff}
main{max-width:1180px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:1.7rem;line-height:1.2;margin:.2em 0}h2{font-size:1.25rem;margin:2.2em 0 .3em;padding-top:.6em;
border-top:1px solid var(--line)}h3{font-size:1rem;margin:1em 0 .2em}
p{max-width:75ch;margin:.4em 0}.soft{color:var(--soft);font-size:.92rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:8px 32px;align-items:start}
figure{margin:0;min-width:0;max-width:620px}figure svg{width:100%;height:auto;display:block}
figcaption{font-weight:600;margin:.9em 0 .2em}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;padding:5px 12px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600;white-space:nowrap}td.n{white-space:nowrap;font-variant-numeric:tabular-nums}
.met{color:var(--good);font-weight:700}.missed{color:var(--bad);font-weight:700}.no{color:var(--none)}
.warn{background:#fff4d6;border:1px solid #ecd48c;padding:10px 14px;border-radius:6px;margin:12px 0}
.sum{font-size:1.05rem}.wrap{white-space:normal}details{margin:.6em 0}summary{cursor:pointer;font-weight:600}
@media(max-width:600px){main{padding:14px 14px 48px}h1{font-size:1.35rem}body{font-size:15px}
.stack thead{display:none}.stack tr{display:block;border-bottom:1px solid var(--line);padding:7px 0}
.stack td{display:inline-block;border:0;padding:0 10px 0 0;white-space:normal}
.stack td:first-child{display:block;font-weight:600}}
h4{font-size:.92rem;margin:1em 0 .2em}
mark{background:#dcf3e7;color:inherit;font-weight:700;padding:0 3px;margin:0 -3px;border-radius:3px}
small{display:block;color:var(--soft);font-size:.85em}
.wide th{white-space:normal;vertical-align:bottom;font-size:.8rem}.wide th,.wide td{padding-right:10px}
.wide{border-collapse:separate;border-spacing:0}.wide td:first-child{white-space:nowrap}
.wide td:first-child,.wide th:first-child{position:sticky;left:0;background:#fff}
pre{overflow-x:auto;font-size:.8rem;background:#f5f6f8;padding:10px 12px;border-radius:6px}
"""


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page, which fetches no other file."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{CSS}</style><main>{''.join(parts)}</main></html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """A table of cells under a head of plain text.

    Of the kind `stack` its rows are paragraphs on a narrow screen; of the kind `wide` its first column stays in sight.
    """
    body = "".join(
        f"<tr><td>{row[0]}</td>{''.join(f'<td class=n>{cell}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    kind = f" class={kind}" if kind else ""
    return f"<div class=scroll><table{kind}><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"


def figure(title: str, svg: str, note: str = "") -> str:
    """A plot under its title, with a note in plain text below."""
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}{soft(note) if note else ''}</figure>"


def figures(drawn: Iterable[str]) -> str:
    """Figures side by side, or a sentence that there are none."""
    inside = "".join(drawn)
    return f"<div class=plots>{inside}</div>" if inside else "<p class=no>Not measured.</p>"


def soft(text: str) -> str:
    """A paragraph of plain text in the style of explanations."""
    return f"<p class=soft>{escape(text, quote=False)}</p>"


def verdict(met: bool | None) -> str:
    """Met, missed, or a dash where it was not measured."""
    if met is None:
        return "<span class=no>–</span>"
    return "<span class=met>met</span>" if met else "<span class=missed>missed</span>"


def tally(verdicts: Sequence[bool | None]) -> str:
    """How many were met, missed and not measured."""
    met, missed = verdicts.count(True), verdicts.count(False)
    return (
        f"<span class=met>{met} met</span>, <span class=missed>{missed} missed</span>, "
        f"<span class=no>{len(verdicts) - met - missed} not measured</span>."
    )


def mark(cell: str) -> str:
    """A cell in bold, for the best of a row."""
    return f"<mark>{cell}</mark>"


def wrapped(text: str) -> str:
    """A cell of plain text that may break into lines."""
    return f"<span class=wrap>{escape(text)}</span>"
