"""Every architecture that is tested: one line each, and how a tiny random checkpoint of it is made.

A checkpoint has its architecture's own tokenizer class over a vocabulary made in memory: word pieces, byte pairs or
unigrams, all written down (the trainers of `tokenizers` break ties by the order of a hash map),
with the special tokens and the order of ids that the published checkpoints have.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from helpers.checkpoints import WORDS
from helpers.sentencepieces import marian
from untorch_export.checkpoint.tasks import TASKS
from untorch_export.export import export

HEADS = (
    "text-classification",
    "token-classification",
    "question-answering",
    "fill-mask",
    "multiple-choice",
    "feature-extraction",
    "sentence-embeddings",
    "zero-shot-classification",
    "text-ranking",
)
CAUSAL = ("text-generation",)
SEQ2SEQ = ("text2text-generation", "summarization", "translation")

# Special tokens in the order of their ids, by role.
_BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_ROBERTA = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
_T5 = {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
_GPT = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>"}

# Two layers of 32 dimensions; wide weights, so that random answers differ from text to text.
_SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
_RANGE = {"max_position_embeddings": 64, "initializer_range": 0.3}
_OFFSET = {**_SMALL, "max_position_embeddings": 66, "type_vocab_size": 1}
_POSITIONS = {**_SMALL, "max_position_embeddings": 66}
_DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, **_RANGE}
# Without norms, wide weights would make the hidden states explode.
_BOTTLENECK = {"embedding_size": 16, "true_hidden_size": 16, "intra_bottleneck_size": 16, "initializer_range": 0.1}
_DISENTANGLED = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
    "type_vocab_size": 0,
}
_GROUPED = {**_SMALL, "num_key_value_heads": 2}
_BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "init_std": 0.3,
}


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    `prefix` starts the names of its classes, `tokens` are its special tokens in the order of their ids, `first` the
    tasks that every run of the tests takes (`make matrix` takes all), `fused` how many of its attention layers are
    fused in int8 at least, cross-attention counted.
    """

    name: str
    prefix: str
    vocabulary: str
    tokens: dict[str, str]
    config: dict[str, Any]
    first: tuple[str, ...]
    tasks: tuple[str, ...] = HEADS
    fused: int | None = 2
    layers: int = 2
    note: str = ""
    tokenizer: str = ""

    @property
    def id(self) -> str:
        return self.name.lower().replace("/", "-")


_T2T = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "initializer_factor": 1.0}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
_LOCAL = {**_SMALL, "local_attention": 8, "global_attn_every_n_layers": 2}
_ANY = "PreTrainedTokenizerFast"
_CLASSIFY, _TAG, _ASK, _FILL, _CHOOSE, _STATES, _EMBED, _ZERO, _RANK = HEADS
_DECODER = (*CAUSAL, _CLASSIFY, _TAG, _ASK, _STATES, _EMBED, _ZERO, _RANK)
_T5_TASKS = (*SEQ2SEQ, _CLASSIFY, _TAG, _ASK, _STATES, _EMBED, _ZERO, _RANK)
_BART_TASKS = (*SEQ2SEQ, _CLASSIFY, _ASK, _FILL, _STATES, _EMBED, _ZERO, _RANK)

_PAIRS = "disentangled attention: each pair of tokens adds products with their distance to the score"
_WINDOWS = "its attention works in windows; no multiple-choice: a loop over the choices cannot be traced"

ARCHITECTURES = (
    Architecture("BERT", "Bert", "word pieces", _BERT, _SMALL, (_CLASSIFY, _ASK)),
    Architecture("RoBERTa", "Roberta", "byte pairs", _ROBERTA, _OFFSET, (_CLASSIFY, _FILL)),
    Architecture("DistilBERT", "DistilBert", "word pieces", _BERT, _DISTIL, (_CLASSIFY, _CHOOSE)),
    Architecture("ALBERT", "Albert", "unigrams", _BERT, {**_SMALL, "embedding_size": 16}, (_CLASSIFY, _ASK)),
    Architecture("ELECTRA", "Electra", "word pieces", _BERT, {**_SMALL, "embedding_size": 16}, (_CLASSIFY, _TAG)),
    Architecture("MPNet", "MPNet", "word pieces", _ROBERTA, _POSITIONS, (_CLASSIFY, _EMBED)),
    Architecture("MobileBERT", "MobileBert", "word pieces", _BERT, {**_SMALL, **_BOTTLENECK}, (_CLASSIFY, _STATES)),
    Architecture("DeBERTa-v2/v3", "DebertaV2", "unigrams", _BERT, {**_SMALL, **_DISENTANGLED}, (_CLASSIFY, _TAG),
                 note=_PAIRS),
    Architecture("XLM-RoBERTa", "XLMRoberta", "unigrams", _ROBERTA, _OFFSET, (_CLASSIFY, _TAG)),
    Architecture("CamemBERT", "Camembert", "unigrams", _ROBERTA, _OFFSET, (_CLASSIFY, _FILL)),
    Architecture("ModernBERT", "ModernBert", "byte pairs", _BERT, _LOCAL, (_CLASSIFY, _FILL), tokenizer=_ANY),
    Architecture("Longformer", "Longformer", "byte pairs", _ROBERTA, {**_OFFSET, "attention_window": 8}, (_TAG, _ASK),
                 tuple(task for task in HEADS if task != _CHOOSE), fused=0, layers=4, note=_WINDOWS),
    Architecture("GPT-2", "GPT2", "byte pairs", _GPT, _GPT2, (*CAUSAL, _CLASSIFY), _DECODER),
    Architecture("Llama", "Llama", "byte pairs", _GPT, _GROUPED, (*CAUSAL, _RANK), _DECODER, tokenizer=_ANY),
    Architecture("Qwen2", "Qwen2", "byte pairs", _GPT, _GROUPED, (*CAUSAL, _EMBED), _DECODER),
    Architecture("T5", "T5", "unigrams", _T5, _T2T, (*SEQ2SEQ[:2], _STATES), _T5_TASKS, 6, 6),
    Architecture("BART", "Bart", "byte pairs", _ROBERTA, _BART, (SEQ2SEQ[1], _ZERO), _BART_TASKS, 6, 6),
    Architecture("Marian", "Marian", "two SentencePiece models", {}, _BART, SEQ2SEQ[2:], SEQ2SEQ, None),
)  # fmt: skip


# transformers 5 does not write names that are its defaults, and then gives BART three labels.
_LABELS = {0: "negative", 1: "positive"}
_ENTAILMENT = {0: "contradiction", 1: "neutral", 2: "entailment"}


def checkpoint(folder: Path, architecture: Architecture, task: str) -> Path:
    """A random checkpoint of an architecture with a task's head and its tokenizer, saved into `folder`."""
    tokenizer = _tokenizer(architecture, folder)
    if task == "question-answering":  # with left padding transformers finds answers in the question, too
        tokenizer.padding_side = "right"
        tokenizer.save_pretrained(folder)
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "bos", "eos", "cls", "sep")}
    ids = {name: value for name, value in ids.items() if value is not None}
    if architecture.tasks[0] in SEQ2SEQ:
        ids["decoder_start_token_id"] = ids["pad_token_id"] if architecture.prefix != "Bart" else ids["eos_token_id"]
    labels = {"zero-shot-classification": _ENTAILMENT, "text-ranking": {0: "relevant"}}.get(task, _LABELS)
    config = getattr(transformers, f"{architecture.prefix}Config")(
        vocab_size=len(tokenizer),
        id2label=labels,
        label2id={label: index for index, label in labels.items()},
        **architecture.config,
        **ids,
    )
    torch.manual_seed(0)
    if architecture.prefix == "T5" and TASKS[task].auto == "AutoModel":  # the whole model wants a decoder's ids, too
        model = transformers.T5EncoderModel(config)
    else:
        model = getattr(transformers, TASKS[task].auto).from_config(config)
    model.eval().save_pretrained(folder)
    if task == "sentence-embeddings":
        return _sentence_transformer(folder)
    return folder


def _sentence_transformer(folder: Path) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    transformer = Transformer(str(folder))
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    SentenceTransformer(modules=[transformer, pooling, Normalize()]).save_pretrained(str(folder / "saved"))
    return folder / "saved"


def _tokenizer(architecture: Architecture, folder: Path) -> transformers.PreTrainedTokenizerBase:
    if architecture.prefix == "Marian":
        return marian(folder, model_max_length=64)
    tokens = architecture.tokens
    backend = _VOCABULARIES[architecture.vocabulary](list(tokens.values()), tokens["unk"])
    backend.add_special_tokens(list(tokens.values()))
    first, last = tokens.get("cls"), tokens.get("sep", tokens.get("eos"))
    ends = [(token, backend.token_to_id(token)) for token in (first, last) if token]
    if tokens is _BERT:
        single, pair = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"
    elif tokens is _ROBERTA:
        single, pair = "<s> $A </s>", "<s> $A </s> </s> $B </s>"
    else:
        single, pair = "$A </s>", "$A </s> $B </s>"
    if tokens is not _GPT:
        backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ends)
    roles = {f"{role}_token": token for role, token in tokens.items()}
    if tokens is _ROBERTA:
        roles |= {"bos_token": "<s>", "eos_token": "</s>"}
    kind = getattr(transformers, architecture.tokenizer or f"{architecture.prefix}TokenizerFast")
    if kind is transformers.PreTrainedTokenizerFast:
        roles["model_input_names"] = ["input_ids", "attention_mask"]
    if architecture.tasks[0] in CAUSAL:
        roles["padding_side"] = "left"
    tokenizer = kind(tokenizer_object=backend, model_max_length=64, **roles)
    tokenizer.save_pretrained(folder)
    return tokenizer


_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"
_WORDS = dict.fromkeys(WORDS.split())


def _word_pieces(special: list[str], unknown: str) -> Tokenizer:
    words = dict.fromkeys(WORDS.lower().split())
    pieces = dict.fromkeys([*special, *_LETTERS, *(f"##{letter}" for letter in _LETTERS), *words])
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _byte_pairs(special: list[str], unknown: str) -> Tokenizer:
    pieces = dict.fromkeys([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    merges = {}
    for word in _WORDS:
        left = "Ġ"
        for letter in word:
            merges[left, letter] = None
            left += letter
            pieces[left] = None
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _unigrams(special: list[str], unknown: str) -> Tokenizer:
    # The likelier the longer, so that a word comes before its letters.
    pieces = dict.fromkeys(["▁", *_LETTERS, *_LETTERS.upper(), *(f"▁{word}" for word in _WORDS)])
    scored = [(token, 0.0) for token in special] + [(piece, -10.0 / len(piece)) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(scored, special.index(unknown)))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


_VOCABULARIES = {"word pieces": _word_pieces, "byte pairs": _byte_pairs, "unigrams": _unigrams}


def table(measured: dict[str, float]) -> str:
    """The README's table. `measured` is the largest difference of fp32 from PyTorch by architecture."""
    lines = ["| architecture | tasks | fp32, largest difference | int8, fused layers | |", "|---|---|---|---|---|"]
    for item in ARCHITECTURES:
        parity = f"{measured[item.name]:.0e}" if item.name in measured else "–"
        fused = "–" if item.fused is None else f"{item.fused} / {item.layers}"
        lines.append(f"| {item.name} | {_named(item.tasks)} | {parity} | {fused} | {item.note} |")
    return "\n".join(lines) + "\n"


def _named(tasks: tuple[str, ...]) -> str:
    missing = [task for task in HEADS if task not in tasks]
    others = [task for task in tasks if task not in HEADS]
    if len(missing) == len(HEADS):
        return ", ".join(others)
    return ", ".join([*others, f"all nine of an encoder{' but ' * bool(missing)}{', '.join(missing)}"])


def _measure(architecture: Architecture) -> float:
    """The largest difference of any fp32 output from PyTorch's, over the tasks that every run of the tests takes."""
    worst = 0.0
    for task in architecture.first:
        with TemporaryDirectory() as folder:
            source = checkpoint(Path(folder) / "checkpoint", architecture, task)
            manifest = export(source, Path(folder) / "bundle", task=task, precisions=["fp32"])
        outputs = manifest.variants["fp32"].parity["outputs"].values()
        worst = max(worst, *(output["max_abs_difference"] for output in outputs))
    return worst


if __name__ == "__main__":  # prints the README's table
    print(table({item.name: _measure(item) for item in ARCHITECTURES}), end="")
