"""`untorch run` over folders: every row once, every file whole, and what is wrong is said before anything starts."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from untorch import pipeline
from untorch.cli import main

pa = pytest.importorskip("pyarrow", reason="pip install 'untorch[jobs]'")
from pyarrow import parquet  # noqa: E402

TEXTS = ["hello world", 'a "quoted",\ntext', "Ça va 世界 🙂", "I love this film", "2020-01-01", "007"]


def run(bundle, source, target, *arguments):
    """The exit code of `untorch run` over folders."""
    return main(
        [
            "run",
            str(bundle),
            "--precision",
            "fp32",
            "--input",
            str(source),
            "--output",
            str(target),
            *map(str, arguments),
        ]
    )


def written(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "_untorch" not in path.parts
    )


def leftovers(folder: Path) -> list[Path]:
    return [path for path in (folder / "_untorch/parts").rglob("*") if path.is_file()]


def write_parquet(path: Path, texts, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": pa.array(range(len(texts)), pa.int64()), "text": pa.array(texts, pa.string()), **columns})
    parquet.write_table(table, path)


@pytest.fixture
def source(tmp_path) -> Path:
    """A folder of all three formats, nested."""
    folder = tmp_path / "in"
    write_parquet(folder / "a.parquet", [*TEXTS, None, "hello " * 500], when=[None] * 8)
    (folder / "deep/er").mkdir(parents=True)
    rows = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]
    rows.append({"id": 6, "text": "x", "more": {"y": [1.5]}, "at": "2020-01-01T00:00:00Z"})
    (folder / "deep/b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with (folder / "deep/er/c.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *([f"{number:03}", text] for number, text in enumerate(TEXTS))])
    (folder / "_SUCCESS").touch()
    (folder / ".hidden.csv").write_text("x\n")
    (folder / "notes.txt").write_text("not data\n")
    return folder


def test_a_folder_of_every_format_keeps_rows_columns_and_places(tiny_bundle, source, tmp_path, capsys):
    target = tmp_path / "out"
    assert run(tiny_bundle, source, target) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["files"] == summary["files_done"] == 3
    assert (summary["rows"], summary["errors"], summary["changed"]) == (21, 2, [])
    answerer = pipeline(None, tiny_bundle, precision="fp32")
    assert summary["tokens"] == sum(map(answerer.count_tokens, [*TEXTS * 3, "hello " * 500, "x"]))
    assert written(target) == ["a.parquet", "deep/b.jsonl", "deep/er/c.csv"]
    assert leftovers(target) == []
    scores = pytest.approx([answer["score"] for answer in answerer(TEXTS)], abs=1e-5)

    table = parquet.read_table(target / "a.parquet")
    assert table.schema.names == ["id", "text", "when", "label", "score", "error"]
    assert table.select(["id", "text", "when"]).equals(parquet.read_table(source / "a.parquet"))
    assert table["score"].to_pylist()[:6] == scores
    assert table["error"].to_pylist()[6:] == ["the text is null", table["error"][7].as_py()]
    assert table["error"][7].as_py().startswith("the text has 502 tokens")
    assert table.schema.metadata[b"untorch"].startswith(b"untorch ")

    rows = [json.loads(line) for line in (target / "deep/b.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == [*TEXTS, "x"]
    assert [row["score"] for row in rows[:6]] == scores
    assert (rows[6]["more"], rows[6]["at"]) == ({"y": [1.5]}, "2020-01-01T00:00:00Z")

    with (target / "deep/er/c.csv").open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    assert [cell["text"] for cell in cells] == TEXTS
    assert [cell["id"] for cell in cells] == ["000", "001", "002", "003", "004", "005"]
    assert [float(cell["score"]) for cell in cells] == scores


def test_a_pattern_and_another_format(tiny_bundle, source, tmp_path):
    target = tmp_path / "out"
    assert run(tiny_bundle, source / "**/*.[cj]s*", target, "--format", "parquet", "--set", "top_k=2") == 0
    assert written(target) == ["deep/b.parquet", "deep/er/c.parquet"]
    assert parquet.read_schema(target / "deep/er/c.parquet").field("labels").type == pa.list_(pa.string())


def test_lists_of_structs_become_json_in_csv(make_bundle, tmp_path):
    from helpers.checkpoints import small_bert

    _, bundle = make_bundle(
        "jobs-BertForTokenClassification",
        lambda folder: small_bert(folder, "BertForTokenClassification"),
        precisions=["fp32"],
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("text\nhello world\n")
    assert run(bundle, tmp_path / "in", tmp_path / "out", "--set", "ignore_labels=[]") == 0
    with (tmp_path / "out/a.csv").open(newline="") as file:
        entities = json.loads(next(csv.DictReader(file))["entities"])
    assert entities == pipeline(None, bundle)("hello world", ignore_labels=[])


def test_shards_share_the_files_and_none_is_left_out(tiny_bundle, tmp_path, capsys):
    for number in range(7):
        write_parquet(tmp_path / f"in/{number}.parquet", [f"text {number}"])
    for shard in ("1/3", "2/3", "3/3"):
        assert run(tiny_bundle, tmp_path / "in", tmp_path / "out", "--shards", shard) == 0
    done = [json.loads(line)["files_done"] for line in capsys.readouterr().out.splitlines()]
    assert done == [3, 2, 2]
    assert written(tmp_path / "out") == [f"{number}.parquet" for number in range(7)]
    assert run(tiny_bundle, tmp_path / "in", tmp_path / "out", "--shards", "9/9", "--resume") == 0


def test_empty_files_have_the_columns_that_others_have(tiny_bundle, tmp_path):
    write_parquet(tmp_path / "in/a.parquet", [])
    (tmp_path / "in/b.csv").touch()
    (tmp_path / "in/c.jsonl").touch()
    (tmp_path / "in/d.csv").write_text("id,text\n")
    assert run(tiny_bundle, tmp_path / "in", tmp_path / "out", "--format", "parquet") == 0
    for name in "abcd":
        table = parquet.read_table(tmp_path / f"out/{name}.parquet")
        assert table.num_rows == 0
        assert table.schema.names[-4:] == ["text", "label", "score", "error"]


def test_resume_does_what_is_missing_and_no_more(tiny_bundle, source, tmp_path, capsys):
    target = tmp_path / "out"
    assert run(tiny_bundle, source, target) == 0
    before = {name: (target / name).stat() for name in written(target)}
    (target / "deep/b.jsonl").unlink()
    (target / "deep/er/c.csv").write_text("cut")
    assert run(tiny_bundle, source, target, "--resume") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["files_done"] == 2
    assert written(target) == sorted(before)
    assert (target / "a.parquet").stat().st_mtime_ns == before["a.parquet"].st_mtime_ns
    assert (target / "deep/er/c.csv").stat().st_size == before["deep/er/c.csv"].st_size


def test_without_resume_answers_that_are_there_are_not_done_again(tiny_bundle, source, tmp_path, capsys):
    assert run(tiny_bundle, source, tmp_path / "out") == 0
    assert run(tiny_bundle, source, tmp_path / "out") == 2
    assert "holds this job's a.parquet already; to go on, resume" in capsys.readouterr().err


def test_a_changed_input_is_named_and_answered_again(tiny_bundle, source, tmp_path, capsys):
    assert run(tiny_bundle, source, tmp_path / "out") == 0
    changed = source / "deep/b.jsonl"
    times = changed.stat()
    # The same size and the same time of change, as a careless copy leaves them.
    changed.write_text(changed.read_text(encoding="utf-8").replace("hello world", "awful world"), encoding="utf-8")
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.utime(source / "a.parquet")  # touched, and the same
    capsys.readouterr()
    assert run(tiny_bundle, source, tmp_path / "out", "--resume") == 0
    printed = capsys.readouterr()
    assert f"{changed} has changed since it was answered" in printed.err
    summary = json.loads(printed.out)
    assert (summary["files_done"], summary["changed"]) == (1, [str(changed)])
    assert "awful world" in (tmp_path / "out/deep/b.jsonl").read_text(encoding="utf-8")


def test_the_output_folder_of_another_job_is_refused(tiny_bundle, frozen_bundle, source, tmp_path, capsys):
    target = tmp_path / "out"
    assert run(tiny_bundle, source, target) == 0
    for arguments, named in (
        ([tiny_bundle, "--set", "top_k=2"], "arguments was {} and is {'top_k': 2} now"),
        ([tiny_bundle, "--on-error", "raise"], "on_error was 'column' and is 'raise' now"),
        ([frozen_bundle], "bundle was '"),
    ):
        assert run(arguments[0], source, target, "--resume", *arguments[1:]) == 2
        error = capsys.readouterr().err
        assert "holds the answers of another job" in error
        assert named in error
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.parquet").touch()
    assert run(tiny_bundle, source, tmp_path / "full") == 2
    assert "holds files that are no job's" in capsys.readouterr().err
    assert written(tmp_path / "full") == ["thesis.parquet"]


def files(tmp_path, **contents):
    (tmp_path / "in").mkdir()
    write_parquet(tmp_path / "in/good.parquet", ["good"])
    for name, content in contents.items():
        path = tmp_path / "in" / name.replace("_", ".")
        path.write_bytes(content) if isinstance(content, bytes) else parquet.write_table(content, path)


@pytest.mark.parametrize(
    ("contents", "arguments", "message"),
    [
        ({"x_csv": b"id,body\n1,a\n"}, [], r"in/x.csv: there is no column 'text'; there is id, body"),
        ({"x_jsonl": b'{"body": "a"}\n'}, [], r"in/x.jsonl: there is no column 'text'"),
        ({"x_parquet": pa.table({"text": [1]})}, [], r"in/x.parquet: the column 'text' is int64, not text"),
        (
            {"x_parquet": pa.table({"text": ["a"], "label": [1]})},
            [],
            r"in/x.parquet: there is a column 'label' already",
        ),
        ({"x_parquet": b"PAR1 no"}, [], r"in/x.parquet cannot be read as parquet: "),
        ({"x_jsonl": b'{"text": "a"}\n{oops\n'}, [], r"in/x.jsonl, line 2: not valid JSON"),
        ({"x_jsonl": b'{"text": "a"}\n"b"\n'}, [], r"in/x.jsonl, line 2: str, not an object"),
        ({}, ["--column", "question=q"], "column names question"),
        ({}, ["--column", "q="], "--column takes NAME"),
        ({}, ["--shards", "0/2"], "shard 0/2 is none"),
        ({}, ["--shards", "two"], "--shards takes I/N"),
        ({"good_csv": b"text\na\n"}, ["--format", "jsonl"], "would both be answered into good.jsonl"),
        ({}, ["--set", "top_k=0"], "top_k is 0"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(tiny_bundle, tmp_path, capsys, contents, arguments, message):
    import re

    files(tmp_path, **contents)
    assert run(tiny_bundle, tmp_path / "in", tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_no_input_and_no_output(tiny_bundle, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    assert run(tiny_bundle, tmp_path / "in", tmp_path / "out") == 2
    assert run(tiny_bundle, tmp_path / "*.parquet", tmp_path / "out") == 2
    assert capsys.readouterr().err.count("there is no file of .parquet, .jsonl, .csv in") == 2
    assert main(["run", str(tiny_bundle), "--input", str(tmp_path / "in")]) == 2
    assert "needs --output DIR" in capsys.readouterr().err
    assert main(["run", str(tiny_bundle), "--resume"]) == 2
    assert "go with --input DIR" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a", "n": 1}\n' * 400_000 + b'{"text": "b", "n": "one"}\n', "changed from number to string"),
        # Where the first block that is parsed ends, so that each block is of one kind.
        (b'{"text": "a", "n": 1}\n' * 381_301 + b'{"text": "b", "n": "one"}\n', "a column has values of two kinds"),
        (b'{"text": "a"}\n' * 700_000 + b"{oops\n", "line 700001: not valid JSON"),
    ],
    ids=["two kinds", "two kinds in two blocks", "malformed"],
)
def test_a_fault_deep_in_a_file_ends_the_job_and_leaves_no_half_file(tiny_bundle, tmp_path, capsys, content, message):
    (tmp_path / "in").mkdir()
    write_parquet(tmp_path / "in/a.parquet", ["good"])
    (tmp_path / "in/x.jsonl").write_bytes(content)
    assert run(tiny_bundle, tmp_path / "in", tmp_path / "out") == 2
    assert f"{tmp_path / 'in/x.jsonl'}" in (error := capsys.readouterr().err)
    assert message in error
    assert written(tmp_path / "out") == ["a.parquet"]
    assert leftovers(tmp_path / "out") == []


def test_on_error_raise_names_file_and_row(tiny_bundle, tmp_path, capsys):
    write_parquet(tmp_path / "in/a.parquet", ["good"] * 1500 + ["hello " * 500] + ["good"] * 100)
    assert run(tiny_bundle, tmp_path / "in", tmp_path / "out", "--on-error", "raise") == 2
    assert f"{tmp_path / 'in/a.parquet'}, row 1501: the text has 502 tokens" in capsys.readouterr().err
    assert written(tmp_path / "out") == []


def test_an_output_folder_inside_the_input_is_not_answered_itself(tiny_bundle, tmp_path):
    write_parquet(tmp_path / "in/a.parquet", ["good"])
    for _ in range(2):
        assert run(tiny_bundle, tmp_path / "in", tmp_path / "in/out", "--resume") == 0
    assert written(tmp_path / "in/out") == ["a.parquet"]


@contextmanager
def mounted(folder: Path, options: str):
    """A file system in memory at `folder`; skips where none may be mounted."""
    folder.mkdir(exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv"])
def test_a_full_disk_leaves_what_is_done_and_resume_does_the_rest(tiny_bundle, tmp_path, capsys, form):
    write_parquet(tmp_path / "in/a.parquet", ["small"])
    write_parquet(
        tmp_path / "in/b.parquet",
        [f"large {number}" for number in range(20_000)],
        noise=[os.urandom(20).hex() for _ in range(20_000)],
    )
    target = tmp_path / "out"
    with mounted(target, "size=600k"):
        assert run(tiny_bundle, tmp_path / "in", target, "--format", form) == 2
        error = capsys.readouterr().err
        assert "No space left on device" in error
        assert "to go on, resume" in error
        assert written(target) == [f"a.{form}"]
        assert leftovers(target) == []
        subprocess.run(["mount", "-o", "remount,size=20m", str(target)], check=True)
        assert run(tiny_bundle, tmp_path / "in", target, "--format", form, "--resume") == 0
        assert json.loads(capsys.readouterr().out)["files_done"] == 1
        assert written(target) == [f"a.{form}", f"b.{form}"]


def test_a_folder_that_cannot_be_written_is_refused(tiny_bundle, tmp_path, capsys):
    write_parquet(tmp_path / "in/a.parquet", ["good"])
    with mounted(tmp_path / "out", "ro"):
        assert run(tiny_bundle, tmp_path / "in", tmp_path / "out") == 2
        assert "cannot write" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert run(tiny_bundle, tmp_path / "in", tmp_path / "file") == 2
    assert "cannot write" in capsys.readouterr().err


def test_two_processes_with_the_same_shard_do_every_file_once(tiny_bundle, tmp_path):
    for number in range(6):
        write_parquet(tmp_path / f"in/{number}.parquet", [f"text {number} {row}" for row in range(500)])
    command = [
        sys.executable,
        "-m",
        "untorch",
        "run",
        tiny_bundle,
        "--input",
        tmp_path / "in",
        "--output",
        tmp_path / "out",
    ]
    both = [subprocess.Popen([*command, "--resume"], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    summaries = [json.loads(process.communicate(timeout=120)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(summary["files_done"] for summary in summaries) == 6
    assert sum(summary["rows"] for summary in summaries) == 3000
    # Neither ends before all is there.
    assert written(tmp_path / "out") == [f"{number}.parquet" for number in range(6)]
    texts = parquet.read_table(tmp_path / "out")["text"].to_pylist()
    assert len(set(texts)) == len(texts) == 3000


def test_a_single_parquet_file(tiny_bundle, tmp_path):
    write_parquet(tmp_path / "a.parquet", TEXTS)
    assert run(tiny_bundle, tmp_path / "a.parquet", tmp_path / "out") == 0
    assert parquet.read_table(tmp_path / "out/a.parquet").num_rows == 6


def test_a_bundle_that_was_altered_ends_the_job_before_it_starts(tiny_bundle, tmp_path, capsys):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (bundle / "config.json").write_text((bundle / "config.json").read_text().replace("NEGATIVE", "NEGATIVF"))
    write_parquet(tmp_path / "in/a.parquet", TEXTS)
    assert run(bundle, tmp_path / "in", tmp_path / "out") == 2
    assert "was altered" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
