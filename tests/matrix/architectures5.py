"""Every architecture of transformers 5 and every head that it has: built small and random, exported, compared.

    python tests/matrix/architectures5.py RESULTS.jsonl            run what the file does not have yet
    python tests/matrix/architectures5.py RESULTS.jsonl --page     write docs/architectures.md from it

The cells are transformers' own mappings, nothing is listed by hand. A model is built from its config class by one rule
(`small`), saved, and exported as a user would; the verdict is the export's own, which compares with PyTorch at many
lengths with padding. Each cell runs in a process of its own, with limits on its time and memory.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import itertools
import json
import multiprocessing
import re
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig
from transformers.models.auto import modeling_auto as auto

from untorch_export.checkpoint.inputs import place_marks
from untorch_export.checkpoint.tasks import TASKS
from untorch_export.errors import ExportError
from untorch_export.export import export, quiet
from untorch_export.parity import reference

# A mapping of transformers → the task whose head it has, in the order in which they are tried.
MAPPINGS = {
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": "text-classification",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": "text-generation",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES": "text2text-generation",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES": "fill-mask",
    "MODEL_MAPPING_NAMES": "feature-extraction",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": "token-classification",
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES": "question-answering",
    "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES": "multiple-choice",
}
SECONDS, BYTES, PARAMETERS = 300, 8 << 30, 30_000_000
PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"

_KEY_HEADS = r"(num_key_value|num_kv|n_kv)_heads$|^n_head_kv$"
# The rule: what a config calls a size → the size. The first pattern that matches a name counts.
_RULE = (
    (r"(^|_)vocab_size$|^num_embeddings$", 320),
    (r"^(type|segment)_vocab_size$", None),
    (_KEY_HEADS, 2),
    (r"(num_attention_heads|attention_heads|n_heads?|num_heads|num_query_heads|linear_num_(key|value)_heads)$", 4),
    (r"(hidden_layers|n_layers?|num_layers|encoder_layers|decoder_layers|num_layer)$", 2),
    (r"^(head_dim|d_kv|kv_channels|attention_head_(dim|size)|v_head_dim|qk_(nope|rope)_head_dim|global_head_dim)$", 8),
    (r"_head_dim$", 8),
    (r"lora_rank$", 16),
    (r"(intermediate_size|ffn_dim|ffn_size|d_ff|d_inner|n_inner|inner_dim|ffn_hidden_size|mlp_dim|dim_ff)$", 64),
    (r"^(hidden_size|d_model|n_embd|dim|emb_dim|embed_dim|embedding_size|word_embed_proj_dim|d_embed|model_dim)$", 32),
    (r"^hidden_dim$", 64),
    (r"(max_position_embeddings|n_positions|n_ctx|max_sequence_length|max_seq_len|max_target_positions)$", 160),
    (r"(num_experts|num_local_experts|n_routed_experts|moe_num_experts)$", 4),
    (r"^rotary_dim$", 4),
    (r"(^moe_k|num_experts_per_tok|moe_topk|moe_top_k|num_experts_per_token)$", 2),
    (r"^(n_group|topk_group|num_expert_group)$", 1),
    (r"^(sliding_window|local_attention|attention_window|attention_chunk_size|window_size)$", 8),
    (r"^first_k_dense_replace$", 1),
)
# What a rule cannot say, and what every checkpoint of the kind says.
_QUIRKS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0}, "ffn_config": {"ffn_hidden_size": 64}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4, "visual_embed": False},
    "lilt": {"hidden_size": 48},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2},
    "mistral4": {"head_dim": 16},
    "nemotron_h": {
        "layers_block_type": ["mamba", "attention"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "n_groups": 1,
    },
    "qwen2_5_vl_text": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}},
    "qwen2_vl_text": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [16, 16]},
    "xmod": {"default_language": "en_XX"},
}
_OTHER_INPUTS = "pixel_values|image_patches|visual_|input_features|input_values|audio_values"
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}


def cells() -> Iterator[tuple[str, str, str]]:
    """(model_type, task, class) of every head that transformers maps to a model_type; one head of each first."""
    for mapping, task in MAPPINGS.items():
        for kind, names in getattr(auto, mapping).items():
            for name in (names,) if isinstance(names, str) else names[:1]:
                yield kind, task, name


def attempts(kind: type[transformers.PreTrainedConfig]) -> Iterator[transformers.PreTrainedConfig]:
    """Configs of this class whose sizes are small, by `_RULE`, the plainest first.

    Some classes cannot be built from the first: their keys have as many heads as their queries, their lists of layers
    follow from other sizes, or what their checkpoints always say has no default.
    """
    for equal_heads, own_lists, filled in itertools.product((False, True), repeat=3):
        try:
            yield _small(kind, equal_heads=equal_heads, own_lists=own_lists, filled=filled)
        except Exception as error:
            yield error


def _small(kind: type[transformers.PreTrainedConfig], **way: bool) -> transformers.PreTrainedConfig:
    given = kind().to_dict()
    changed: dict[str, Any] = {}
    for name, value in given.items():
        size = next((size for pattern, size in _RULE if re.search(pattern, name)), None)
        if isinstance(value, bool) or size is None:
            continue
        if isinstance(value, int):
            changed[name] = min(size, value) if value > 0 else value
        elif isinstance(value, list) and name == "attention_window":
            changed[name] = [size] * 2
        elif value is None and way["filled"] and not name.startswith("sliding"):
            changed[name] = size
    if way["equal_heads"]:
        changed |= {name: 4 for name in changed if re.search(_KEY_HEADS, name)}
    layers = next((changed[name] for name in changed if re.search("hidden_layers$|n_layers?$|num_layers$", name)), 2)
    for name, value in given.items():
        lists = isinstance(value, list) and name.endswith(("layer_types", "layers_block_type", "_pattern"))
        if lists and len(value) > layers and not way["own_lists"]:
            changed[name] = _ends(value, layers)
    tokens = {name: value for name, value in _TOKENS.items() if name in given or name == "pad_token_id"}
    if given.get("is_encoder_decoder"):
        tokens["decoder_start_token_id"] = _TOKENS["decoder_start_token_id"]
    tokens |= {
        name: 3
        for name, value in given.items()
        if name.endswith("_token_id") and isinstance(value, int) and value >= 320 and name not in tokens
    }
    for name, value in (getattr(kind, "sub_configs", None) or {}).items():
        if name in ("text_config", "encoder", "decoder") and hasattr(value, "to_dict") and value is not AutoConfig:
            changed[name] = _small(value, **way).to_dict()
    return kind(**{**changed, **tokens, **_QUIRKS.get(kind.model_type, {})})


def _ends(kinds: list[Any], count: int) -> list[Any]:
    """As many layers of every kind as there is room for."""
    different = list(dict.fromkeys(kinds)) if all(isinstance(kind, str) for kind in kinds) else kinds
    return [different[index % len(different)] for index in range(count)]


def model(kind: str, task: str, name: str) -> transformers.PreTrainedModel:
    """A small random model whose answers differ from text to text, and that runs. Raises what the first attempt did."""
    first: Exception | None = None
    for config in attempts(transformers.CONFIG_MAPPING[kind]):
        try:
            if isinstance(config, Exception):
                raise config
            for spread in (0.15, 0.05):
                made = _built(config, task, name, spread)
                run_on_text(made, task)
                if rounding(made) < 3e-6:  # else errors of rounding grow from layer to layer, whoever computes them
                    return made
            return made
        except Exception as error:
            first = first or error
    assert first is not None
    raise first


def rounding(made: transformers.PreTrainedModel) -> float:
    """How far PyTorch's own answers in single and double precision are apart, over 1 + the largest answer."""
    ids = torch.randint(3, 250, (2, 60), generator=torch.Generator().manual_seed(2))
    try:
        with torch.no_grad():
            states = made.base_model(input_ids=ids)[0].double()
            precise = copy.deepcopy(made).double().base_model(input_ids=ids)[0]
    except Exception:  # a base model that wants more than ids, or has operators for single precision alone
        return 0.0
    return float((states - precise).abs().max() / (1 + precise.abs().max()))


def _built(config: transformers.PreTrainedConfig, task: str, name: str, wanted: float) -> transformers.PreTrainedModel:
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in getattr(transformers, name)(config).parameters())
    if size > PARAMETERS:
        raise ValueError(f"is not small by the rule: {size:,} parameters")
    torch.manual_seed(0)
    if task == "text-generation" and getattr(config, "is_decoder", True) is False:
        config.is_decoder = True  # BERT's relatives continue a text if they are told to
    made = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for part in made.modules():  # zeros at padding's id, which is among the random ones, would tie every router
            if isinstance(part, torch.nn.Embedding) and part.padding_idx is not None:
                part.weight[part.padding_idx].normal_(std=wanted)
        for parameter in made.parameters():
            if parameter.dim() > 1 and parameter.is_floating_point():
                spread = float(parameter.std())
                if spread == 0:  # a router that starts with zeros would choose among equals
                    parameter.normal_(std=wanted)
                elif spread < wanted:
                    parameter.mul_(wanted / spread)
    return made


def reads_more_than_text(name: str) -> str:
    """The arguments by which a class of transformers reads images, sound and the like; nothing for text alone."""
    try:
        made = getattr(transformers, name)
        if made.main_input_name != "input_ids":
            return str(made.main_input_name)
        names = inspect.signature(made.forward).parameters
    except (AttributeError, ImportError) as error:  # a class that needs a library for images or sound
        return _first(error)
    return ", ".join(name for name in names if re.search(_OTHER_INPUTS, name))


def run_on_text(made: transformers.PreTrainedModel, task: str) -> float:
    """The spread of the answers to a batch of ids with padding. Raises whatever the model raises."""
    rows, length = 2 * TASKS[task].answer.rows_an_input, 12
    try:
        size = getattr(made.get_input_embeddings(), "num_embeddings", 300)
    except NotImplementedError:  # CANINE, which reads characters
        size = 300
    ids = torch.randint(3, min(300, size), (rows, length), generator=torch.Generator().manual_seed(1))
    lengths = torch.full((rows,), length)
    lengths[1::2] = 7
    place_marks(made, TASKS[task], ids, lengths, spare=5)
    inputs = {"input_ids": ids, "attention_mask": (torch.arange(length) < lengths[:, None]).long()}
    inputs = {name: torch.as_tensor(TASKS[task].answer.shaped(rows)) for name, rows in inputs.items()}
    if "attention_mask" not in inspect.signature(type(made).forward).parameters:
        del inputs["attention_mask"]
    if TASKS[task].answer.generates and made.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids[:, :3]
    with torch.no_grad():
        outputs = made(**inputs)
    return float(outputs[TASKS[task].outputs[0]].float().std())


def cell(kind: str, task: str, name: str) -> dict[str, Any]:
    """What became of one cell.

    `status` is works, wrong or refused; none where transformers cannot do it, other where it reads more than text.
    """
    began = time.monotonic()

    def result(status: str, reason: str = "", **more: Any) -> dict[str, Any]:
        seconds = round(time.monotonic() - began, 1)
        return {"kind": kind, "task": task, "class": name, "status": status, "reason": reason, "s": seconds, **more}

    other = reads_more_than_text(name)
    if other:
        return result("other", f"reads {other}")
    try:
        with quiet():
            made = model(kind, task, name)
            size = sum(parameter.numel() for parameter in made.parameters())
            spread = run_on_text(made, task)
    except Exception as error:
        return result("none", f"{type(error).__name__}: {_first(error)}")
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "source", Path(scratch) / "bundle"
        try:
            with quiet():
                made.save_pretrained(source)
            warnings.simplefilter("ignore")
            manifest = export(source, target, task=task, precisions=["fp32"], keep_failed=True)
        except ExportError as error:
            cause = error.__cause__
            return result("refused", _first(error), cause=type(cause).__name__ if cause else "", size=size)
        except Exception as error:
            return result(
                "refused",
                f"{type(error).__name__}: {_first(error)}",
                cause="bare",
                size=size,
                trace=traceback.format_exc()[-1500:],
            )
        variant = manifest.variants["fp32"]
        import onnx

        counts = [
            onnx.load(target / graph.file, load_external_data=False).graph.node for graph in variant.graphs.values()
        ]
        attention = sum(node.op_type == "Attention" for nodes in counts for node in nodes)
        softmax = sum(node.op_type == "Softmax" for nodes in counts for node in nodes)
        gate = variant.parity["gate"]
        status = "works" if variant.verdict == "exact" else "wrong"
        return result(
            status,
            "" if status == "works" else str(gate),
            measured=gate["measured"],
            spread=round(spread, 4),
            attention=attention,
            whole=TASKS[task].answer.generates and not _has_cache(variant),
            softmax=softmax,
            size=size,
        )


def _has_cache(variant: Any) -> bool:
    """Whether a graph of a model that generates takes what was kept of the tokens before."""
    return any(tensor.name.startswith("past") for graph in variant.graphs.values() for tensor in graph.inputs)


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _worker(sender: Any, arguments: tuple[str, str, str]) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
    warnings.filterwarnings("ignore")
    try:
        found = cell(*arguments)
    except BaseException as error:  # a cell that breaks is a result, too
        found = {"status": "refused", "reason": f"{type(error).__name__}: {_first(error)}", "cause": "bare"}
    sender.send(found)


def _warm_up() -> None:
    """Import here, once, what every process would import by itself: most of a small export's time."""
    from untorch_export.trace.dynamo.program import convert

    class Double(torch.nn.Module):
        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (tensors[0] * 2,)

    torch.set_num_threads(1)
    with quiet():
        convert(Double(), {"x": torch.zeros(2, 2)}, {"x": {0: "batch"}}, {"y": {0: "batch"}})


def isolated(kind: str, task: str, name: str) -> dict[str, Any]:
    """`cell` in a process of its own, which is ended when its time is over."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_worker, args=(sender, (kind, task, name)))
    process.start()
    sender.close()
    blank = {"kind": kind, "task": task, "class": name}
    try:
        if not receiver.poll(SECONDS):
            return {**blank, "status": "refused", "reason": f"takes more than {SECONDS} seconds", "cause": "time"}
        return {**blank, **receiver.recv()}
    except EOFError:
        process.join()
        return {**blank, "status": "refused", "reason": f"the process ended with {process.exitcode}", "cause": "crash"}
    finally:
        process.kill()
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--page", action="store_true", help="write the page from the results")
    parser.add_argument("--only", default="", help="cells whose `model_type/task` this pattern finds")
    parser.add_argument("--again", default="", help="run cells of this status again")
    arguments = parser.parse_args()
    found = read(arguments.results)
    if arguments.page:
        from architectures5_page import page

        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(list(found.values()), len(set(cells()))), encoding="utf-8")
        return
    reference.LONGEST = 130
    _warm_up()
    for kind, task, name in cells():
        key = f"{kind}/{task}"
        known = found.get(key)
        if not re.search(arguments.only, key) or (known and not re.search(arguments.again or "^$", known["status"])):
            continue
        result = isolated(kind, task, name)
        with arguments.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(f"{key:60} {result['status']:8} {result.get('s', '')} {result['reason'][:150]}", flush=True)


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The last result of each cell."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {f"{item['kind']}/{item['task']}": item for item in map(json.loads, lines)}


if __name__ == "__main__":
    sys.exit(main())
