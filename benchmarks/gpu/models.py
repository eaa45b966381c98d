"""Builds a bundle on the spot: a configuration, random weights, the graphs of every variant that a card runs.

Needs torch, transformers (4.57 or 5) and onnx, and no Optimum, so that it works where nothing can be installed.
"""

from __future__ import annotations

import copy
import functools
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "models/untorch-minilm-sst2/untorch_minilm_sst2/bundle"
SEED = 0

_BERT = {"vocab_size": 30522, "max_position_embeddings": 512, "num_labels": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "distilbert-base": {
        "model_type": "distilbert", "dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072, **_BERT
    },
    "bert-base": {
        "model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, **_BERT
    },
    "minilm-l6": {
        "model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
        "intermediate_size": 1536, **_BERT
    },
}  # fmt: skip
# The same architectures, small enough for a smoke run on a CPU.
QUICK: dict[str, dict[str, Any]] = {
    "distilbert-base": {**CONFIGS["distilbert-base"], "dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 128},
    "bert-base": {
        **CONFIGS["bert-base"], "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 128,
    },
}  # fmt: skip


def torch_model(config: dict[str, Any], attention: str = "eager") -> Any:
    """The PyTorch classifier in fp32, the same weights at every call. Its head's logits have a spread of about one."""
    return copy.deepcopy(_made(json.dumps(config), attention))


@functools.lru_cache(maxsize=8)
def _made(written: str, attention: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = json.loads(written)
    settings = {key: value for key, value in config.items() if key != "model_type"}
    torch.manual_seed(SEED)
    model = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(config["model_type"], **settings), attn_implementation=attention
    ).eval()
    rng = np.random.default_rng(SEED)
    ids = torch.from_numpy(rng.integers(1000, 30000, (32, 24)))
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        spread = (logits - logits.mean(0)).std(0)
        # Rows of a random head differ by less than fp16 can tell apart; scaled and centred, answers differ by text.
        model.classifier.weight.div_(spread[:, None])
        model.classifier.bias.sub_(logits.mean(0)).div_(spread)
    return model


def build(name: str, config: dict[str, Any], folder: Path) -> Path:
    """Write the bundle `folder/name`: fp32 (standard operators), fp16 and, where it can be, fp16_packed."""
    import transformers

    from untorch.bundle.manifest import Variant
    from untorch_export.bundle import writer

    bundle = folder / name
    # What transformers 4 traces without Optimum's patches cannot be fused; Optimum has none for transformers 5.
    by_optimum = transformers.__version__.startswith("4.")
    model = torch_model(config, "sdpa" if by_optimum else "eager")
    (bundle / "onnx").mkdir(parents=True)
    (convert if by_optimum else trace)(model, bundle / "onnx/model.onnx")
    full = model.config.to_dict()
    writer.write_json(bundle / "config.json", {**full, "architectures": [type(model).__name__]})
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(TOKENIZER / file, bundle / file)
    variants = {
        precision: Variant(precision, {role: _described(path, bundle) for role, path in paths.items()})
        for precision, paths in _graphs(model, full, bundle / "onnx").items()
    }
    writer.write_manifest(
        bundle, task="text-classification", source={"random": SEED}, variants=variants, tools={}, extra={}
    )
    return bundle


def _graphs(model: Any, config: dict[str, Any], folder: Path) -> dict[str, dict[str, Path]]:
    """Files by precision and role, made from the traced `model.onnx`."""
    import onnx

    from untorch_export.graph import files, fusion, head
    from untorch_export.graph.fp16 import take_int32, to_fp16
    from untorch_export.graph.masks import as_bias
    from untorch_export.graph.packing import pack
    from untorch_export.graph.rewriting import Graph

    plain = folder / "model.onnx"
    standard = onnx.load(str(plain))
    plain.with_name("model.onnx_data").unlink(missing_ok=True)
    graph = Graph(standard)
    graph.outputs = [value for value in graph.outputs if value.name == "logits"]
    graph.drop_unused()
    standard = graph.finish()
    for value in standard.graph.input:
        files.set_shape(value, ("batch", "sequence"))
    files.set_shape(standard.graph.output[0], ("batch", model.config.num_labels))
    files.save(standard, plain)
    fused = fusion.fuse(plain, config, device="cuda")
    layers = fusion.layers(plain)
    if (count := fusion.fused_attention(files.fused(fused))) != layers:
        raise RuntimeError(f"{count} of {layers} attention layers fused")
    found = {"fp32": {"model": plain}, "fp16": {"model": folder / "model_fp16.onnx"}}
    files.save(as_bias(to_fp16(fused)), folder / "model_fp16.onnx")
    head = head.head_only(fused, "logits")
    if head is not None:
        found["fp16"]["head"] = folder / "head_fp16.onnx"
        files.save_beside(take_int32(as_bias(to_fp16(head))), found["fp16"]["head"], folder / "model_fp16.onnx")
    for role, whole in (("model", fused), ("head", head)):
        if whole is not None and (packed := pack(to_fp16(whole))) is not None:
            path = folder / f"{role}_fp16_packed.onnx"
            found.setdefault("fp16_packed", {})[role] = path
            files.save_beside(take_int32(packed), path, folder / "model_fp16.onnx")
    return found


def standard_fp16(bundle: Path) -> Path:
    """The fp16 form of a bundle's `model.onnx`, of standard operators alone, beside it."""
    from untorch_export.graph import files
    from untorch_export.graph.fp16 import to_fp16

    path = bundle / "onnx/model_fp16_standard.onnx"
    if not path.exists():
        files.save(to_fp16(files.load(bundle / "onnx/model.onnx")), path)
    return path


def convert(model: Any, path: Path) -> None:
    """The fp32 graph as `untorch export` makes it, through Optimum, which wants transformers 4."""
    from untorch_export.checkpoint.tasks import TASKS
    from untorch_export.trace.optimum.forward import convert as by_optimum

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_optimum(model, TASKS["text-classification"], path)


def trace(model: Any, path: Path) -> None:
    """The fp32 graph by the TorchScript exporter alone; with transformers 5, ONNX Runtime can fuse its attention."""
    import torch

    names = ["input_ids", "attention_mask"]
    ids = torch.arange(1000, 1026).reshape(2, 13)
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    axes = {name: {0: "batch", 1: "sequence"} for name in names}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits(), (ids, mask), str(path), input_names=names, output_names=["logits"],
            dynamic_axes={**axes, "logits": {0: "batch"}}, opset_version=17, dynamo=False,
        )  # fmt: skip


def _described(path: Path, bundle: Path) -> Any:
    import onnx

    from untorch.bundle.manifest import Tensor
    from untorch.ort.cuda.packing import INDICES
    from untorch_export.graph import files

    model = onnx.load(str(path), load_external_data=False)
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = (*(Tensor(name, "int64", ("batch", "sequence")) for name in names), *INDICES)
    labels = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    outputs = (Tensor("logits", "float32", ("batch", labels)),)
    return files.describe(path, bundle, inputs, outputs, optimized="fp16" in path.name)
