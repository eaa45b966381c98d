"""`untorch run` over folders: rows a second against the pipeline alone, and memory over large files.

    python benchmarks/folders.py BUNDLE [--gigabytes 5] [--rows 4000] [--rounds 3]

Writes benchmarks/results/folders.json. The large files are made in the temporary folder and removed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from untorch import pipeline

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.machine import describe
from benchmarks.workloads import WORDS

RESULTS = Path(__file__).parent / "results"


def sentences(rows: int) -> list[str]:
    """So many texts of 4 to 40 words."""
    chance = random.Random(0)
    return [" ".join(chance.choices(WORDS, k=chance.randint(4, 40))) for _ in range(rows)]


def run(bundle: str, source: Path, target: Path) -> tuple[dict, resource.struct_rusage]:
    """What a run says of itself, and what its process took."""
    command = [sys.executable, "-m", "untorch", "run", bundle, "--input", str(source), "--output", str(target)]
    with tempfile.TemporaryFile() as out, subprocess.Popen(command, stdout=out) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        assert process.returncode == 0, f"{command} ended with {process.returncode}"
        return json.loads(out.read()), usage


def speed(bundle: str, folder: Path, rows: int, rounds: int) -> dict:
    """The pipeline in this process and a folder run, in turn: rows a second, and a second of processor time.

    The start of a run, and on a machine that others use the waiting for a core, are no part of the latter.
    """
    texts = sentences(rows)
    answerer = pipeline(None, bundle)
    for name, files in (("speed", 4), ("nothing", 1)):
        (folder / name).mkdir()
        for part in range(files):
            share = texts[part::4] if name == "speed" else []
            table = pa.table({"id": range(len(share)), "text": pa.array(share, pa.string())})
            parquet.write_table(table, folder / name / f"{part}.parquet")
    list(answerer(text for text in texts[:200]))
    found: dict[str, list[float]] = {}

    def note(**values: float) -> None:
        for name, value in values.items():
            found.setdefault(name, []).append(round(value, 1))

    for turn in range(rounds):
        start, used = time.perf_counter(), time.process_time()
        list(answerer(text for text in texts))
        note(pipeline=rows / (time.perf_counter() - start), pipeline_processor=rows / (time.process_time() - used))
        nothing = processor_time(run(bundle, folder / "nothing", folder / f"nothing-{turn}")[1])
        said, usage = run(bundle, folder / "speed", folder / f"out-{turn}")
        note(folder=said["rows_per_second"], folder_processor=rows / (processor_time(usage) - nothing))
    pairs = zip(found["folder_processor"], found["pipeline_processor"], strict=True)
    return {**found, "folder_of_pipeline_by_processor_time": round(statistics.median(a / b for a, b in pairs), 3)}


def processor_time(usage: resource.struct_rusage) -> float:
    """Seconds that a process had a core."""
    return float(usage.ru_utime + usage.ru_stime)


def memory(bundle: str, folder: Path, gigabytes: float) -> dict:
    """Most memory over a large file of each format, above that over a small one."""
    found = {}
    for form in ("parquet", "jsonl", "csv"):
        peaks = []
        for name, size in (("small", 0.0), ("large", gigabytes if form == "parquet" else gigabytes / 5)):
            source = folder / f"{name}-{form}/x.{form}"
            source.parent.mkdir()
            payload = 50_000
            rows = max(100, int(size * 1e9 / payload))
            write(source, form, rows, payload)
            peaks.append(run(bundle, source.parent, folder / f"{name}-{form}-out")[1].ru_maxrss / 1024)
            bytes_read = source.stat().st_size
            shutil.rmtree(source.parent)
            shutil.rmtree(folder / f"{name}-{form}-out")
        found[form] = {
            "gigabytes": round(bytes_read / 1e9, 2),
            "peak_mb": round(peaks[1]),
            "above_small_mb": round(peaks[1] - peaks[0]),
        }
    return found


def write(path: Path, form: str, rows: int, payload: int) -> None:
    """Short texts beside a payload that does not compress. The Parquet file is one row group, the worst there is."""
    texts = sentences(1000)

    def batch(start: int) -> dict:
        count = min(1000, rows - start)
        noise = [os.urandom(payload // 2).hex() for _ in range(count)]
        return {"id": list(range(start, start + count)), "text": texts[:count], "payload": noise}

    if form == "parquet":
        schema = pa.schema([("id", pa.int64()), ("text", pa.string()), ("payload", pa.string())])
        with parquet.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
            for start in range(0, rows, 1000):
                writer.write_batch(pa.RecordBatch.from_pydict(batch(start), schema=schema), row_group_size=rows)
        return
    with path.open("w") as file:
        if form == "csv":
            file.write("id,text,payload\n")
        for start in range(0, rows, 1000):
            for id, text, noise in zip(*batch(start).values(), strict=True):
                row = {"id": id, "text": text, "payload": noise}
                file.write(json.dumps(row) + "\n" if form == "jsonl" else f"{id},{text},{noise}\n")


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--gigabytes", type=float, default=5)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = {
            "machine": describe(),
            "load": os.getloadavg(),
            "rows_per_second": speed(arguments.bundle, folder, arguments.rows, arguments.rounds),
            "memory": memory(arguments.bundle, folder, arguments.gigabytes),
        }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "folders.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
