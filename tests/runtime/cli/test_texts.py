"""Text files as editors and spreadsheets write them: nothing is dropped, and what cannot be read is named."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.fuzzing import cases
from untorch import InputError
from untorch.cli import main, texts

BUNDLE = Path(__file__).parents[2] / "data/bundle-v1"
TEXTS = ["good film", 'a "quoted", text; with all', "Ça va 世界 🙂", "two\nlines", "x" * 200_000]
ENCODINGS = {
    "UTF-8": "utf-8",
    "UTF-8 with a mark": "utf-8-sig",
    "UTF-16": "utf-16",
    "UTF-16 from big machines": "utf-16-be",
    "UTF-32": "utf-32",
}


def read(path, encoding=None, fields=("text", "text_pair")):
    with texts.opened(path, encoding) as file:
        return [item for _, item in texts.read(file, texts.kind_of(path), path.name, fields)]


def encoded(text, encoding):
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    return mark + text.encode(encoding)


def table(rows, delimiter=",", ending="\r\n"):
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=delimiter, lineterminator=ending).writerows(rows)
    return written.getvalue()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["in.csv", "in.CSV", "in.txt", "in.TXT", "in.jsonl", "in.JsonL"])
def test_every_text_arrives_whatever_wrote_the_file(tmp_path, name, ending, encoding):
    path, given = tmp_path / name, TEXTS
    if name.lower().endswith("txt"):
        given = [text for text in TEXTS if "\n" not in text]
        content = "".join(text + ending for text in given)
    elif name.lower().endswith("csv"):
        content = table([["text", "id"], *([text, number] for number, text in enumerate(given))], ending=ending)
    else:
        content = "".join(json.dumps({"text": text}, ensure_ascii=False) + ending for text in given)
    path.write_bytes(encoded(content, ENCODINGS[encoding]))
    assert read(path) == given


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "sep=DELIMITER\r\n"])
def test_a_table_may_be_separated_as_spreadsheets_do(tmp_path, delimiter, start):
    path = tmp_path / "in.csv"
    rows = [["id", "text", "text_pair"], [1, "a", "b"], [2, "c;d,e", "f"]]
    path.write_text(start.replace("DELIMITER", delimiter) + table(rows, delimiter), encoding="utf-8-sig", newline="")
    assert read(path) == [{"text": "a", "text_pair": "b"}, {"text": "c;d,e", "text_pair": "f"}]


def test_blank_lines_are_no_rows_of_a_table_and_texts_of_a_plain_file(tmp_path):
    table, lines = tmp_path / "in.csv", tmp_path / "in.txt"
    table.write_text("text\n\ngood film\n\n\nawful mess\n\n")
    lines.write_text("good film\n\nawful mess\n")
    assert read(table) == ["good film", "awful mess"]
    assert read(lines) == ["good film", "", "awful mess"]


def test_a_table_without_the_column_says_what_is_read(tmp_path, caplog):
    path = tmp_path / "in.csv"
    path.write_text("sentence,id\ngood film,1\n")
    assert read(path) == ["good film"]
    assert "no column 'text'" in caplog.text
    assert "'sentence'" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.csv", b'text\n"good film\nawful\n', "line 3: unexpected end of data"),
        ("in.csv", b"text,text_pair\na,b\nc\n", "line 3: the row has 1 columns"),
        ("in.txt", b"good\nfilm \xe9t\xe9\n", "not utf-8 text .*--encoding"),
        ("in.jsonl", b'"good"\n{"a": 1}\n', "line 2: the object has no field"),
        ("in.jsonl", b"[" * 100_000 + b"\n", "line 1: not valid JSON"),
        ("in.xlsx", b"", "cannot read .xlsx"),
        ("in", b"", "choose .txt, .csv, .jsonl"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(path)


def test_an_encoding_can_be_told_and_must_exist(tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes("été\n".encode("cp1252"))
    assert read(path, "cp1252") == ["été"]
    with pytest.raises(InputError, match="cp9999"):
        read(path, "cp9999")


@cases(100)
@given(rows=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), max_size=8))
def test_any_texts_survive_a_table(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text(table([["text"], *([text] for text in rows)]), encoding="utf-8", newline="")
    assert read(path) == rows


def test_a_table_of_answers_never_drops_a_field(tmp_path):
    with texts.writing(tmp_path / "out.csv") as write:
        write({"text": "a", "label": "x"})
        with pytest.raises(InputError, match="text_pair"):
            write({"text": "a", "text_pair": "b", "label": "x"})


def run(*arguments, environment=None, **settings):
    command = [sys.executable, "-m", "untorch", "run", str(BUNDLE), "--device", "cpu", "--json", *map(str, arguments)]
    # A shell has what it runs in the background ignore interrupts, and so would the tests' own processes.
    settings.setdefault("preexec_fn", lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **(environment or {})}, **settings
    )


@contextmanager
def ended(process):
    """The process, which does not outlive the test."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_a_pipe_that_stays_open_gets_its_answers():
    with ended(run(environment={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})) as process:
        for text in ("good film", "Ça va 世界"):
            process.stdin.write(f"{text}\n".encode())
            process.stdin.flush()
            # The next text is sent when this answer has come.
            assert json.loads(process.stdout.readline())["text"] == text
        process.stdin.close()
        assert process.wait(60) == 0


def test_an_interrupt_ends_a_run_that_waits_for_its_pipe():
    with ended(run(stderr=subprocess.PIPE)) as process:
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.wait(60)
        said = process.stderr.read()
    assert process.returncode == 130
    assert b"Fatal" not in said


@pytest.mark.parametrize("home", ["unset", "closed"])
def test_a_home_that_cannot_be_looked_into_changes_nothing(tmp_path, monkeypatch, home, capsys):
    from untorch.loading import plans

    def closed(*_):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    for name in ("UNTORCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if home == "unset":
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    else:
        monkeypatch.setattr(plans, "_folder", closed)
    assert main(["run", str(BUNDLE), "--json", "hello"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "hello"


def test_the_threads_of_a_run_are_chosen(monkeypatch, capsys):
    from untorch.cli import run as command

    built = []
    monkeypatch.setattr(command, "pipeline", lambda *given, **more: built.append(more) or real(*given, **more))
    real = __import__("untorch").pipeline
    assert main(["run", str(BUNDLE), "--threads", "1", "hello"]) == 0
    assert built[0]["threads"] == 1
    assert main(["run", str(BUNDLE), "--threads", "0", "hello"]) == 2
    assert "--threads is 0" in capsys.readouterr().err


@pytest.mark.parametrize(("told", "most"), [("1", 1), ("1,2", 1), ("many", None), ("0", None), ("", None)])
def test_the_cores_are_those_that_openmp_is_told_of(monkeypatch, told, most):
    from untorch.ort.devices import usable_cores

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    free = usable_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert usable_cores() == (free if most is None else min(free, most))
