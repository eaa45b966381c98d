"""Every step of the tutorial notebook, with its two edits: the import line, and "pt" → "np".

Numbers in the names are the rows of the notebook's table. Rows that state values of the real checkpoint run where its
weights are: set UNTORCH_NOTEBOOK_CHECKPOINT to a folder with them (distilbert-base-uncased-finetuned-sst-2-english,
revision 714eb0f). Everything else runs on its real tokenizer and config with random weights.
"""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import transformers

from helpers.checkpoints import word_piece
from untorch import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    InputError,
    SequenceTooLongError,
    pipeline,
    softmax,
)

A = "I've been waiting for a HuggingFace course my whole life."
A_TYPOGRAPHIC = A.replace("'", "’")
B = "I hate this so much!"
ALONE = [1045, 1005, 2310, 2042, 3403, 2005, 1037, 17662, 12172, 2607, 2026, 2878, 2166, 1012]


@pytest.fixture(scope="module")
def checkpoint(shared, make_bundle):
    """The notebook's checkpoint at full size, its weights random."""
    return make_bundle(
        "notebook", shared / "checkpoints/distilbert-sst2-config", random_init=True, seed=0, precisions=["fp32"]
    )[1]


@pytest.fixture(scope="module")
def real_checkpoint(make_bundle):
    folder = os.environ.get("UNTORCH_NOTEBOOK_CHECKPOINT")
    if not folder:
        pytest.skip("set UNTORCH_NOTEBOOK_CHECKPOINT to a folder with the real weights")
    return make_bundle("notebook-real", folder, precisions=["fp32"])[1]


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return AutoTokenizer.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def cased(shared, tmp_path_factory):
    """bert-base-cased, made fast as the export stage makes it."""
    folder = tmp_path_factory.mktemp("cased")
    transformers.AutoTokenizer.from_pretrained(
        shutil.copytree(shared / "tokenizers/bert-base-cased", folder / "raw")
    ).save_pretrained(folder / "fast")
    return AutoTokenizer.from_pretrained(folder / "fast")


@pytest.fixture(scope="module")
def model(checkpoint):
    return AutoModelForSequenceClassification.from_pretrained(checkpoint)


def test_row_1_pipeline(checkpoint):
    answers = pipeline("sentiment-analysis", checkpoint)([A, B])
    assert [list(answer) for answer in answers] == [["label", "score"]] * 2
    assert {answer["label"] for answer in answers} <= {"NEGATIVE", "POSITIVE"}


def test_row_1_a_notice_when_no_model_was_named(caplog):
    answers = pipeline("sentiment-analysis")([A, B])
    assert "No model was supplied" in caplog.text
    assert [answer["label"] for answer in answers] == ["POSITIVE", "NEGATIVE"]


def test_row_2_tokenizer(tokenizer):
    inputs = tokenizer([A, B], padding=True, truncation=True, return_tensors="np")
    assert inputs["input_ids"].tolist() == [
        [101, *ALONE[:9], 2607, 2026, 2878, 2166, 1012, 102],
        [101, 1045, 5223, 2023, 2061, 2172, 999, 102] + [0] * 8,
    ]
    assert inputs["attention_mask"].tolist() == [[1] * 16, [1] * 8 + [0] * 8]
    assert type(inputs["input_ids"]) is np.ndarray


def test_rows_3_and_4_hidden_states(checkpoint, tokenizer):
    inputs = tokenizer([A, B], padding=True, truncation=True, return_tensors="np")
    outputs = AutoModel.from_pretrained(checkpoint)(**inputs)
    assert outputs.last_hidden_state.shape == (2, 16, 768)
    assert outputs.last_hidden_state is outputs["last_hidden_state"] is outputs[0]
    assert repr(outputs).startswith("BaseModelOutput(last_hidden_state=")


def test_rows_5_to_7_classification(model, tokenizer):
    outputs = model(**tokenizer([A, B], padding=True, truncation=True, return_tensors="np"))
    assert outputs.logits.shape == (2, 2)
    np.testing.assert_allclose(softmax(outputs.logits).sum(-1), 1, atol=1e-6)
    assert model.config.id2label == {0: "NEGATIVE", 1: "POSITIVE"}


@pytest.mark.parametrize("architecture", ["Bert", "Roberta", "DistilBert"])
def test_row_9_the_architecture_is_found(architecture, make_bundle):
    def make(folder):
        word_piece(folder)
        config = getattr(transformers, f"{architecture}Config")(
            vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=66, dim=32, n_layers=2, n_heads=4, hidden_dim=64,
        )  # fmt: skip
        getattr(transformers, f"{architecture}Model")(config).save_pretrained(folder)
        return folder

    _, bundle = make_bundle(f"row-9-{architecture}", make, precisions=["fp32"])
    loaded = AutoModel.from_pretrained(bundle)
    assert loaded.config.model_type == architecture.lower()
    assert loaded([[2, 10, 3]]).last_hidden_state.shape == (1, 3, 32)


def test_row_10_a_model_from_a_config_alone(tmp_path, make_bundle):
    config = transformers.BertConfig()
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = 1, 48, 96
    config.save_pretrained(tmp_path)
    word_piece(tmp_path)
    _, bundle = make_bundle("row-10", tmp_path, random_init=True, seed=3, precisions=["fp32"])
    loaded = AutoModel.from_pretrained(bundle).config
    assert (loaded.num_attention_heads, loaded.vocab_size, loaded.max_position_embeddings) == (12, 30522, 512)
    assert loaded.pad_token_id == 0


def test_row_11_a_batch_of_three(model):
    outputs = model([[101, 7592, 999, 102], [101, 4658, 1012, 102], [101, 3835, 999, 102]])
    assert outputs.logits.shape == (3, 2)


def test_rows_13_to_15_cased(cased):
    text = "Using a Transformer network is simple"
    tokens = ["Using", "a", "Trans", "##former", "network", "is", "simple"]
    encoded = cased(text)
    assert encoded["input_ids"] == [101, 7993, 170, 13809, 23763, 2443, 1110, 3014, 102]
    assert encoded["token_type_ids"] == [0] * 9
    assert encoded["attention_mask"] == [1] * 9
    assert cased.tokenize(text) == tokens
    assert cased.convert_tokens_to_ids(tokens) == [7993, 170, 13809, 23763, 2443, 1110, 3014]


def test_row_16_a_list_tokenizes_as_one_run_of_text(cased):
    expected = "I ’ ve been waiting for a Hu ##gging ##F ##ace course my whole life . I hate this so much !"
    tokens = cased.tokenize([A_TYPOGRAPHIC, B])
    assert tokens == expected.split()
    assert cased.convert_tokens_to_ids(tokens) == [
        *(146, 787, 1396, 1151, 2613, 1111, 170, 20164, 10932, 2271, 7954, 1736, 1139, 2006, 1297, 119),
        *(146, 4819, 1142, 1177, 1277, 106),
    ]
    rows = cased([A_TYPOGRAPHIC, B])["input_ids"]
    assert [(row[0], row[-1]) for row in rows] == [(101, 102)] * 2


def test_row_17_decode(cased):
    ids = [101, 7993, 170, 11303, 1200, 2443, 1110, 3014, 102]
    assert cased.decode(ids) == "[CLS] Using a transformer network is simple [SEP]"


def test_row_18_a_flat_list_of_ids(model):
    with pytest.raises(InputError, match=r"batch axis is missing.*\[ids\]"):
        model(ALONE)


def test_row_19_a_batch_of_one_and_of_two(model):
    alone, together = model([ALONE]).logits, model([ALONE, ALONE]).logits
    np.testing.assert_array_equal(together[0], together[1])
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)


def test_row_20_a_ragged_batch(model):
    with pytest.raises(InputError, match=r"ragged.*[Pp]ad"):
        model([[200, 200, 200], [200, 200]])


def test_row_21_pad_token_id(tokenizer):
    assert tokenizer.pad_token_id == 0


def test_row_22_padding_needs_its_mask(model):
    padded = [[200, 200, 200], [200, 200, 0]]
    with pytest.warns(UserWarning, match="no attention_mask"):
        wrong = model(padded).logits
    right = model(padded, attention_mask=[[1, 1, 1], [1, 1, 0]]).logits
    alone = model([[200, 200]]).logits
    np.testing.assert_allclose(right[1], alone[0], atol=1e-5)
    assert np.abs(wrong[1] - alone[0]).max() > 1e-3


def test_row_24_over_the_limit(model):
    with pytest.raises(SequenceTooLongError, match=r"513 tokens.*512.*truncation=True.*windows"):
        model([[200] * 513])


def test_row_25_one_and_two(tokenizer):
    assert tokenizer("So have I!")["input_ids"] == [101, 2061, 2031, 1045, 999, 102]
    assert tokenizer([A, "So have I!"])["input_ids"][1] == [101, 2061, 2031, 1045, 999, 102]


@pytest.mark.parametrize(
    ("arguments", "lengths"),
    [
        ({"padding": "longest"}, [16, 16]),
        ({"padding": "max_length"}, [512, 512]),
        ({"padding": "max_length", "max_length": 8}, [16, 8]),
    ],
)
def test_row_26_padding(tokenizer, arguments, lengths):
    assert [len(row) for row in tokenizer([A, B], **arguments)["input_ids"]] == lengths


def test_row_27_truncation(tokenizer):
    assert len(tokenizer("word " * 600, truncation=True)["input_ids"]) == 512
    cut = tokenizer([A, B], truncation=True, max_length=8)["input_ids"]
    assert [len(row) for row in cut] == [8, 8]
    assert [row[-1] for row in cut] == [102, 102]


def test_row_28_return_tensors(tokenizer):
    assert isinstance(tokenizer([A, B], padding=True, return_tensors="np")["input_ids"], np.ndarray)
    assert isinstance(tokenizer([A, B])["input_ids"], list)
    for framework in ("pt", "tf"):
        with pytest.raises(InputError, match='"np"'):
            tokenizer([A, B], padding=True, return_tensors=framework)


def test_row_29_special_tokens(tokenizer):
    ids = tokenizer(A)["input_ids"]
    plain = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(A))
    assert ids == [101, *plain, 102]
    sentence = "i've been waiting for a huggingface course my whole life."
    assert tokenizer.decode(ids) == f"[CLS] {sentence} [SEP]"
    assert tokenizer.decode(plain) == sentence


def test_row_30_the_last_cell(model, tokenizer):
    inputs = tokenizer([A, "So have I!"], padding=True, truncation=True, return_tensors="np")
    assert model(**inputs).logits.shape == (2, 2)


def test_row_31_explain_shows_each_stage(checkpoint, capsys):
    from untorch.cli import main

    assert main(["explain", str(checkpoint), "So have I!"]) == 0
    printed = capsys.readouterr().out
    for stage in ("[CLS]", "2061", "last_hidden_state 1 x 6 x 768", "logits", "probability", "POSITIVE"):
        assert stage in printed


def test_values_of_the_real_checkpoint(real_checkpoint):
    scores = [answer["score"] for answer in pipeline("sentiment-analysis", real_checkpoint)([A, B])]
    np.testing.assert_allclose(scores, [0.9598047137260437, 0.9994558691978455], atol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(real_checkpoint)
    inputs = tokenizer([A, B], padding=True, truncation=True, return_tensors="np")
    states = AutoModel.from_pretrained(real_checkpoint)(**inputs).last_hidden_state
    np.testing.assert_allclose(states[0, 0, :3], [-0.1798, 0.2333, 0.6321], atol=1e-3)
    model = AutoModelForSequenceClassification.from_pretrained(real_checkpoint)
    logits = model(**inputs).logits
    np.testing.assert_allclose(logits, [[-1.5607, 1.6123], [4.1692, -3.3464]], atol=1e-3)
    np.testing.assert_allclose(softmax(logits), [[0.040195, 0.95980], [0.99946, 0.00054418]], atol=1e-4)
    np.testing.assert_allclose(model([ALONE[:10] + ALONE[10:]]).logits, [[-2.7276, 2.8789]], atol=1e-3)
    np.testing.assert_allclose(model([[200, 200, 200]]).logits, [[1.5694, -1.3895]], atol=1e-3)
    np.testing.assert_allclose(model([[200, 200]]).logits, [[0.5803, -0.4125]], atol=1e-3)
    padded = [[200, 200, 200], [200, 200, 0]]
    with pytest.warns(UserWarning, match="no attention_mask"):
        np.testing.assert_allclose(model(padded).logits[1], [1.3374, -1.2163], atol=1e-3)
    masked = model(padded, attention_mask=[[1, 1, 1], [1, 1, 0]]).logits
    np.testing.assert_allclose(masked[1], [0.5803, -0.4125], atol=1e-3)
    bare = tokenizer([A_TYPOGRAPHIC, B], add_special_tokens=False, padding=True, return_tensors="np")
    np.testing.assert_allclose(model(**bare).logits, [[-2.5720, 2.6852], [3.1931, -2.6685]], atol=1e-3)
    last = tokenizer([A, "So have I!"], padding=True, truncation=True, return_tensors="np")
    np.testing.assert_allclose(model(**last).logits, [[-1.5607, 1.6123], [-3.6183, 3.9137]], atol=1e-3)
