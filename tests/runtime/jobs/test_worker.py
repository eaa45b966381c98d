"""The worker: batches in, the same rows with their answers out, whatever is in them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from untorch import pipeline
from untorch.errors import BundleError, InputError, IntegrityError, TaskError

pa = pytest.importorskip("pyarrow", reason="pip install 'untorch[jobs]'")
from untorch.jobs import RowError, Worker  # noqa: E402

TEXTS = ["hello world", "I love this movie so much", "Ça va 世界 🙂", "", "awful"]
TOO_LONG = "hello " * 500


def batch(texts, **columns):
    return pa.RecordBatch.from_pydict(
        {"id": pa.array(range(len(texts)), pa.int64()), "text": pa.array(texts, pa.string()), **columns}
    )


def test_answers_are_the_pipelines_in_typed_columns_after_all_others(tiny_bundle):
    given = batch(TEXTS, other=[{"a": 1}] * 5)
    answered = Worker(tiny_bundle, precision="fp32")(given)
    assert answered.schema.names == ["id", "text", "other", "label", "score", "error"]
    assert answered.select(["id", "text", "other"]).equals(given)
    assert answered.schema.field("label").type == pa.string()
    assert answered.schema.field("score").type == pa.float64()
    expected = pipeline(None, tiny_bundle, precision="fp32")(TEXTS)
    assert answered["label"].to_pylist() == [answer["label"] for answer in expected]
    assert answered["score"].to_pylist() == pytest.approx([answer["score"] for answer in expected], abs=1e-5)
    assert answered["error"].null_count == 5
    answered.validate(full=True)


def test_only_the_configuration_travels_and_a_process_loads_once(tiny_bundle):
    worker = Worker(tiny_bundle, precision="fp32")
    before = worker(batch(TEXTS))
    sent = pickle.dumps(worker)
    assert len(sent) < 2000
    again = pickle.loads(sent)
    assert again.load() is worker.load()
    assert again(batch(TEXTS)).equals(before)


def test_a_forked_process_loads_its_own(tiny_bundle):
    code = """
import gc, os, sys, pyarrow as pa
from untorch.jobs import Worker
worker, batch = Worker(sys.argv[1], threads=4), pa.RecordBatch.from_pydict({"text": ["hello"]})
worker(batch)
if (child := os.fork()) == 0:
    gc.collect()
    os._exit(0 if worker(batch).num_rows == 1 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    result = subprocess.run([sys.executable, "-c", code, str(tiny_bundle)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_the_threads_are_those_the_engine_granted(tiny_bundle, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert Worker(tiny_bundle, prefix="granted_").load().model.session.threads == 1
    assert Worker(tiny_bundle, prefix="named_", threads=3).load().model.session.threads == 3


def test_threads_of_one_process_may_call_at_once(tiny_bundle):
    worker = Worker(tiny_bundle, precision="fp32", prefix="at_once_")
    with ThreadPoolExecutor(4) as pool:
        answered = list(pool.map(worker, [batch(TEXTS)] * 8))
    assert all(one.equals(answered[0]) for one in answered)


BAD = {"null": None, "too long": TOO_LONG}


@given(rows=st.lists(st.sampled_from(["good", "fine text", "", "🙂", "null", "too long"]), max_size=40))
def test_a_row_that_cannot_be_answered_costs_no_other_its_answer(tiny_bundle, rows):
    worker = Worker(tiny_bundle, precision="fp32")
    answered = worker(batch([BAD.get(row, row) for row in rows])).to_pylist()
    reasons = {"null": "the text is null", "too long": "the text has 502 tokens"}
    assert [row["id"] for row in answered] == list(range(len(rows)))
    for row, kind in zip(answered, rows, strict=True):
        assert (row["label"] is None) == (kind in BAD)
        assert (row["error"] or "none").startswith(reasons.get(kind, "none"))


def test_the_model_sees_each_text_once_however_many_rows_are_bad(tiny_bundle):
    worker = Worker(tiny_bundle, precision="fp32", prefix="once_")
    model, seen = worker.load().model, []
    forward = model.forward
    model.forward = lambda feeds, *more: seen.append(len(feeds["input_ids"])) or forward(feeds, *more)
    try:
        worker(batch((["good"] * 7 + [TOO_LONG]) * 8))
    finally:
        del model.forward
    assert sum(seen) == 7 * 8


def test_on_error_raise_names_the_row(tiny_bundle):
    worker = Worker(tiny_bundle, on_error="raise")
    assert worker(batch(TEXTS)).schema.names == ["id", "text", "label", "score"]
    with pytest.raises(RowError, match=r"row 2 of the batch: the text has 502 tokens") as raised:
        worker(batch(["good", "good", TOO_LONG, None]))
    assert raised.value.row == 2


@pytest.mark.parametrize(
    ("worker", "columns", "message"),
    [
        ({"column": "body"}, {"text": ["a"]}, "there is no column 'body'; there is text"),
        ({}, {"text": [1]}, "the column 'text' is int64, not text"),
        ({}, {"text": [b"a"]}, "the column 'text' is binary, not text"),
        ({}, {"text": [["a"]]}, "the column 'text' is list<.*>, not text"),
        ({}, {"text": ["a"], "label": [0]}, "there is a column 'label' already"),
        ({}, {"text": ["a"], "error": [0]}, "there is a column 'error' already"),
        ({"column": {"question": "text"}}, {"text": ["a"]}, "column names question; text-classification takes text, "),
    ],
)
def test_columns_that_will_not_do_are_named(tiny_bundle, worker, columns, message):
    with pytest.raises(InputError, match=message):
        Worker(tiny_bundle, **worker)(pa.RecordBatch.from_pydict(columns))


def test_two_columns_of_one_name_are_refused(tiny_bundle):
    twice = pa.RecordBatch.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pytest.raises(InputError, match="more than one column 'text'"):
        Worker(tiny_bundle)(twice)


def test_a_prefix_makes_room_for_columns_that_are_there(tiny_bundle):
    answered = Worker(tiny_bundle, prefix="model_")(batch(["a"], label=[0], score=[1.0], error=["mine"]))
    assert answered.schema.names == [
        "id",
        "text",
        "label",
        "score",
        "error",
        *(f"model_{n}" for n in ("label", "score", "error")),
    ]
    assert answered["error"].to_pylist() == ["mine"]


@pytest.mark.parametrize(
    "texts",
    [
        pa.array(["a", None, "b"], pa.large_string()),
        pa.array(["a", None, "b"], pa.string_view()),
        pa.array(["a", None, "b"]).dictionary_encode(),
        pa.array([None, None, None]),
    ],
    ids=["large", "view", "dictionary", "nulls"],
)
def test_text_in_every_form_that_arrow_has(tiny_bundle, texts):
    answered = Worker(tiny_bundle)(pa.RecordBatch.from_arrays([texts], names=["text"]))
    assert answered["label"].null_count == texts.null_count
    assert answered.num_rows == 3


def test_a_table_of_several_chunks(tiny_bundle):
    worker = Worker(tiny_bundle, precision="fp32")
    table = pa.Table.from_batches([batch(TEXTS[:2]), batch([]), batch(TEXTS[2:])])
    answered = worker(table)
    assert answered.column_names == worker(batch(TEXTS)).schema.names
    assert answered["text"].to_pylist() == TEXTS
    assert worker(table.slice(0, 0)).schema == answered.schema


def test_no_rows_have_the_schema_of_many(tiny_bundle):
    worker = Worker(tiny_bundle)
    assert worker(batch([])).schema == worker(batch(TEXTS)).schema == worker.schema(batch([]).schema)


def test_pairs_and_single_texts_in_one_batch(tiny_bundle):
    given = batch(["a b", "hello", "great"], text_pair=pa.array(["world", None, "film"]))
    scores = Worker(tiny_bundle, precision="fp32")(given)["score"].to_pylist()
    answerer = pipeline(None, tiny_bundle, precision="fp32")
    pairs = answerer([{"text": "a b", "text_pair": "world"}, {"text": "great", "text_pair": "film"}])
    assert scores == pytest.approx([pairs[0]["score"], answerer(["hello"])[0]["score"], pairs[1]["score"]], abs=1e-5)


def test_all_labels_as_lists(tiny_bundle):
    answered = Worker(tiny_bundle, top_k=None)(batch(["a", None]))
    assert answered.schema.field("labels").type == pa.list_(pa.string())
    assert sorted(answered["labels"][0].as_py()) == ["NEGATIVE", "POSITIVE"]
    assert sum(answered["scores"][0].as_py()) == pytest.approx(1, abs=1e-5)
    assert answered["scores"][1].as_py() is None


@pytest.fixture(scope="module")
def headed(make_bundle):
    from helpers.checkpoints import small_bert

    return lambda head: make_bundle(f"jobs-{head}", lambda folder: small_bert(folder, head), precisions=["fp32"])[1]


def test_embeddings_are_lists_of_one_size(headed):
    bundle = headed("BertModel")
    expected = pipeline("sentence-embeddings", bundle)(TEXTS)
    given = batch([*TEXTS, None])
    answered = Worker(bundle, "sentence-embeddings")(given)
    assert answered.schema.field("embedding").type == pa.list_(pa.float32(), 32)
    np.testing.assert_allclose(np.stack(answered["embedding"].to_pylist()[:5]), expected, atol=1e-5)
    assert answered["embedding"][5].as_py() is None

    whole = Worker(bundle, "sentence-embeddings", vectors="int8")(given)
    assert whole.schema.field("embedding").type == pa.list_(pa.int8(), 32)
    vectors = np.stack(whole["embedding"].to_pylist()[:5]).astype(float)
    assert np.abs(vectors).max(axis=1).tolist() == [127] * 5
    cosines = (vectors * expected).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.9995

    signs = Worker(bundle, "sentence-embeddings", vectors="bits")(given)
    assert signs.schema.field("embedding").type == pa.list_(pa.uint8(), 4)
    assert np.unpackbits(np.stack(signs["embedding"].to_pylist()[:5]).astype(np.uint8), axis=1).tolist() == (
        (expected > 0).astype(int).tolist()
    )


def test_entities_are_lists_of_structs(headed):
    bundle = headed("BertForTokenClassification")
    expected = pipeline(None, bundle)("hello world", ignore_labels=[])
    answered = Worker(bundle, ignore_labels=[])(batch(["hello world", None]))
    assert answered["entities"][0].as_py() == expected
    assert answered["entities"][1].as_py() is None
    grouped = Worker(bundle, ignore_labels=[], aggregation_strategy="simple")(batch(["hello world"]))
    assert grouped["entities"][0].as_py() == pipeline(None, bundle)(
        "hello world", ignore_labels=[], aggregation_strategy="simple"
    )
    words = pa.RecordBatch.from_pydict({"text": [["hello", "world"]]})
    split = Worker(bundle, ignore_labels=[], is_split_into_words=True)(words)
    assert split["entities"][0].as_py() == expected


def test_questions_read_two_columns(headed):
    bundle = headed("BertForQuestionAnswering")
    given = pa.RecordBatch.from_pydict(
        {"q": ["who is great", "who", None], "body": ["this film is great", "", "the city is nice"]}
    )
    columns = {"question": "q", "context": "body"}
    expected = pipeline(None, bundle)(question="who is great", context="this film is great")
    rows = Worker(bundle, column=columns)(given).to_pylist()
    assert {name: rows[0][name] for name in expected} == pytest.approx(expected)
    assert [row["error"] for row in rows] == [
        None, "the context is ''; it is a text that is not empty", "the text is null"
    ]  # fmt: skip
    several = Worker(bundle, column=columns, top_k=2)(given)
    assert len(several["answers"][0].as_py()) == 2


def test_fillings_are_a_list_for_each_mask(headed):
    bundle = headed("BertForMaskedLM")
    answered = Worker(bundle, top_k=2)(batch(["hello [MASK]", "[MASK] is [MASK]", "no mask"]))
    assert [len(one) for one in answered["fillings"].to_pylist()[:2]] == [1, 2]
    assert answered["fillings"][0].as_py()[0] == pipeline(None, bundle)("hello [MASK]", top_k=2)
    assert "has no mask in it" in answered["error"][2].as_py()


def test_choices_are_ranked(headed):
    bundle = headed("BertForMultipleChoice")
    given = pa.RecordBatch.from_pydict({"text": ["hello", "a"], "choices": [["world", "film"], ["good"]]})
    answered = Worker(bundle)(given)
    expected = pipeline(None, bundle)({"text": "hello", "choices": ["world", "film"]})
    assert [one["index"] for one in answered["ranking"][0].as_py()] == [one["index"] for one in expected]
    assert answered["ranking"][1].as_py()[0]["score"] == 1.0


def test_token_states(headed):
    bundle = headed("BertModel")
    answered = Worker(bundle, "feature-extraction")(batch(["hello world", None]))
    assert answered.schema.field("states").type == pa.list_(pa.list_(pa.float32(), 32))
    expected = pipeline("feature-extraction", bundle)("hello world")[0]
    np.testing.assert_allclose(answered["states"][0].as_py(), expected, atol=1e-6)


def test_vectors_are_for_embeddings_only(tiny_bundle):
    with pytest.raises(InputError, match="text-classification gives no vectors"):
        Worker(tiny_bundle, vectors="int8").load()
    with pytest.raises(InputError, match="choose float32, int8, bits"):
        Worker(tiny_bundle, vectors="int4")


def test_an_argument_or_task_that_the_bundle_refuses_is_named_at_the_first_call(tiny_bundle):
    with pytest.raises(InputError, match="top_k is 0"):
        Worker(tiny_bundle, top_k=0)(batch(["a"]))
    with pytest.raises(TaskError):
        Worker(tiny_bundle, "no-such-task")(batch(["a"]))


def test_a_bundle_at_a_url_is_fetched_once_and_held_to_its_manifest(tiny_bundle, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setenv("UNTORCH_CACHE", str(tmp_path / "cache"))
    source = shutil.copytree(tiny_bundle, tmp_path / "source")
    url = source.as_uri()
    expected = Worker(tiny_bundle, precision="fp32")(batch(TEXTS))
    assert Worker(url, precision="fp32")(batch(TEXTS)).equals(expected)
    # Fetched: the files at the URL are not looked at again, but for the manifest.
    graph = source / "onnx/model.onnx"
    graph.write_bytes(b"x" + graph.read_bytes()[1:])
    assert Worker(url, precision="fp32", prefix="p_")(batch(TEXTS)).num_rows == 5
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(IntegrityError, match=f"{url}/onnx/model.onnx was altered"):
        Worker(url, precision="fp32", prefix="q_")(batch(TEXTS))
    assert not [path for path in (tmp_path / "cache/bundles").iterdir() if path.is_dir()]
    (source / "untorch.json").unlink()
    with pytest.raises(BundleError, match="holds no bundle with a manifest"):
        Worker(url, prefix="r_")(batch(TEXTS))


def test_without_pyarrow_it_says_what_to_install():
    code = """
import sys
sys.modules["pyarrow"] = None
import untorch.jobs
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "untorch.errors.DependencyError: this needs pyarrow: pip install 'untorch[jobs]'" in result.stderr
