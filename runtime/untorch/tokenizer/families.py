"""What `tokenizer_class` implies where the files are silent.

The facts are those of transformers 4.57.6's fast tokenizer classes; the tests hold every row against them.
A class that is not here behaves as transformers' `PreTrainedTokenizerFast`: it has no default special
tokens, and only what the files say.

Not done are the things some classes add to a call: layout boxes (LayoutLMv2 and 3, LayoutXLM, Udop), word
segmentation in Python (RoFormer, Cpm), timestamps (Whisper), infilling (CodeLlama), the reader's three texts
(DPR), target-language texts (MBart, Nllb, SeamlessM4T), and LLaMA's and T5's conversion of the slow tokenizer
when a config sets `add_prefix_space`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from tokenizers import AddedToken

Sync = Literal["bert", "bert_latin", "roberta", "bloom"]

_NOTHING: Mapping[str, Any] = {}


class Family(NamedTuple):
    """Class-level defaults and the adjustments the class makes to the Rust tokenizer on loading."""

    special_tokens: Mapping[str, str] = _NOTHING
    token_flags: Mapping[str, Mapping[str, bool]] = _NOTHING
    """How a special token given as a bare string becomes an `AddedToken`, by its name."""
    additional_special_tokens: tuple[str, ...] = ()
    model_input_names: tuple[str, ...] = ("input_ids", "attention_mask")
    padding_side: Literal["left", "right"] = "right"
    pad_token_type_id: int = 0
    defaults: Mapping[str, Any] = _NOTHING
    """Settings other than special tokens, such as `do_lower_case`."""
    sync: Sync | None = None
    """`bert`: lower-casing, accents and Chinese characters of the normalizer follow the config
    (`bert_latin`: the first two); `roberta`: so do the prefix space and the offsets of the
    post-processor; `bloom`: so does the prefix space, wherever it is."""
    bos_eos: bool = False
    """The post-processor is rebuilt from `add_bos_token` and `add_eos_token`."""
    language: Literal["prefix", "suffix"] | None = None
    """The post-processor is rebuilt with the source language's token before the text, or at the end."""
    words_need_prefix_space: bool = False
    """Pre-split words are refused unless `add_prefix_space` is set."""
    decodes_word_suffix: bool = False
    """Decoding turns the BPE model's end-of-word suffix into a space."""

    def token(self, name: str, value: str | AddedToken) -> str | AddedToken:
        """A special token as the class constructs it."""
        flags = self.token_flags.get(name)
        return AddedToken(value, **flags) if flags is not None and isinstance(value, str) else value


_TYPED = ("input_ids", "token_type_ids", "attention_mask")
_LSTRIP = {"mask_token": {"lstrip": True}}
_LSTRIP_RAW = {"mask_token": {"lstrip": True, "normalized": False}}
_LSTRIP_NORMALIZED = {"mask_token": {"lstrip": True, "normalized": True, "special": True}}


def _tokens(**tokens: str) -> dict[str, str]:
    return {f"{name}_token": token for name, token in tokens.items()}


def _rich(*names: str, **flags: bool) -> dict[str, dict[str, bool]]:
    return {f"{name}_token": flags for name in names}


_BERT_TOKENS = _tokens(unk="[UNK]", sep="[SEP]", pad="[PAD]", cls="[CLS]", mask="[MASK]")
_ROBERTA_TOKENS = _tokens(bos="<s>", eos="</s>", sep="</s>", cls="<s>", unk="<unk>", pad="<pad>", mask="<mask>")
_ALBERT_TOKENS = _tokens(bos="[CLS]", eos="[SEP]", unk="<unk>", sep="[SEP]", pad="<pad>", cls="[CLS]", mask="[MASK]")
_XLNET_TOKENS = _tokens(bos="<s>", eos="</s>", unk="<unk>", sep="<sep>", pad="<pad>", cls="<cls>", mask="<mask>")
_GPT2_TOKENS = _tokens(unk="<|endoftext|>", bos="<|endoftext|>", eos="<|endoftext|>")
_LLAMA_TOKENS = _tokens(unk="<unk>", bos="<s>", eos="</s>")
_T5_TOKENS = _tokens(eos="</s>", unk="<unk>", pad="<pad>")

_BERT_DEFAULTS = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
_BOS_ONLY = {"add_bos_token": True, "add_eos_token": False}
_ALL_RICH = _rich("bos", "eos", "sep", "cls", "unk", "pad", lstrip=False) | _LSTRIP

GENERIC = Family(model_input_names=_TYPED)
_BERT = Family(_BERT_TOKENS, model_input_names=_TYPED, defaults=_BERT_DEFAULTS, sync="bert")
_ROBERTA = Family(
    _ROBERTA_TOKENS,
    _LSTRIP_RAW,
    defaults={"add_prefix_space": False, "trim_offsets": True},
    sync="roberta",
    words_need_prefix_space=True,
)
_XLM_ROBERTA = Family(_ROBERTA_TOKENS, _LSTRIP)
_GPT2 = Family(_GPT2_TOKENS, words_need_prefix_space=True)
_LLAMA = Family(_LLAMA_TOKENS, padding_side="left", defaults=_BOS_ONLY, bos_eos=True)
_XLNET = Family(
    _XLNET_TOKENS,
    _LSTRIP,
    additional_special_tokens=("<eop>", "<eod>"),
    model_input_names=_TYPED,
    padding_side="left",
    pad_token_type_id=3,
)
_MBART = _XLM_ROBERTA._replace(language="suffix", defaults={"src_lang": "en_XX"})

FAMILIES: dict[str, Family] = {
    "Albert": Family(_ALBERT_TOKENS, _LSTRIP_RAW, model_input_names=_TYPED),
    "Bart": _ROBERTA._replace(token_flags=_LSTRIP_NORMALIZED),
    "Barthez": _XLM_ROBERTA,
    "Bert": _BERT,
    "BigBird": Family(
        _tokens(unk="<unk>", bos="<s>", eos="</s>", pad="<pad>", sep="[SEP]", mask="[MASK]", cls="[CLS]"), _ALL_RICH
    ),
    "Blenderbot": _ROBERTA,
    "Bloom": Family(
        _tokens(unk="<unk>", bos="<s>", eos="</s>", pad="<pad>"), sync="bloom", words_need_prefix_space=True
    ),
    "CLIP": Family(
        _tokens(unk="<|endoftext|>", bos="<|startoftext|>", eos="<|endoftext|>", pad="<|endoftext|>"),
        decodes_word_suffix=True,
    ),
    "Camembert": Family(
        _ROBERTA_TOKENS,
        {"mask_token": {"lstrip": True, "special": True}},
        additional_special_tokens=("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"),
    ),
    "CodeGen": _GPT2,
    "CodeLlama": _LLAMA._replace(additional_special_tokens=("▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>")),
    "Cohere": Family(
        _tokens(unk="<UNK>", bos="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>"),
        padding_side="left",
        defaults=_BOS_ONLY,
        sync="bloom",
        bos_eos=True,
        words_need_prefix_space=True,
    ),
    "ConvBert": _BERT,
    "DPRContextEncoder": _BERT,
    "DPRQuestionEncoder": _BERT,
    "DPRReader": _BERT._replace(model_input_names=("input_ids", "attention_mask")),
    "Deberta": Family(
        _tokens(bos="[CLS]", eos="[SEP]", sep="[SEP]", cls="[CLS]", unk="[UNK]", pad="[PAD]", mask="[MASK]"),
        model_input_names=("input_ids", "attention_mask", "token_type_ids"),
        words_need_prefix_space=True,
    ),
    "DebertaV2": Family(
        _tokens(bos="[CLS]", eos="[SEP]", unk="[UNK]", sep="[SEP]", pad="[PAD]", cls="[CLS]", mask="[MASK]"),
        model_input_names=_TYPED,
    ),
    "DistilBert": _BERT._replace(model_input_names=("input_ids", "attention_mask")),
    "Electra": _BERT,
    "FNet": Family(
        _tokens(unk="<unk>", sep="[SEP]", pad="<pad>", cls="[CLS]", mask="[MASK]"),
        _rich("cls", "sep", lstrip=False) | _LSTRIP,
        model_input_names=("input_ids", "token_type_ids"),
    ),
    "Funnel": _BERT._replace(
        special_tokens=_tokens(
            unk="<unk>", sep="<sep>", pad="<pad>", cls="<cls>", mask="<mask>", bos="<s>", eos="</s>"
        ),
    ),
    "GPT2": _GPT2,
    "GPTNeoX": Family(_GPT2_TOKENS, defaults={"add_bos_token": False, "add_eos_token": False}, bos_eos=True),
    "Gemma": _LLAMA._replace(special_tokens=_tokens(unk="<unk>", bos="<bos>", eos="<eos>", pad="<pad>")),
    "Herbert": Family(
        _tokens(cls="<s>", unk="<unk>", pad="<pad>", mask="<mask>", sep="</s>"), model_input_names=_TYPED
    ),
    "LED": _ROBERTA._replace(token_flags=_LSTRIP_NORMALIZED),
    "LayoutLM": _BERT,
    "Llama": _LLAMA,
    "Longformer": _ROBERTA,
    "Lxmert": _BERT,
    "MBart": _MBART,
    "MBart50": _MBART._replace(
        special_tokens={name: token for name, token in _ROBERTA_TOKENS.items() if name != "bos_token"},
        language="prefix",
    ),
    "MPNet": Family(
        _ROBERTA_TOKENS | _tokens(unk="[UNK]"),
        _ALL_RICH,
        defaults={"do_lower_case": True, "strip_accents": None},
        sync="bert_latin",
    ),
    "MT5": Family(_T5_TOKENS),
    "MobileBert": _BERT,
    "Mvp": _ROBERTA._replace(token_flags=_ALL_RICH),
    "Nllb": Family(_ROBERTA_TOKENS, _LSTRIP_NORMALIZED, defaults={"src_lang": "eng_Latn"}, language="prefix"),
    "OpenAIGPT": Family(_tokens(unk="<unk>")),
    "Pegasus": Family(_tokens(pad="<pad>", eos="</s>", unk="<unk>", mask="<mask_2>")),
    "Qwen2": Family(
        _tokens(unk="<|endoftext|>", eos="<|endoftext|>", pad="<|endoftext|>"),
        _rich("bos", "eos", "unk", "pad", special=True, normalized=False),
    ),
    "Realm": _BERT,
    "Reformer": Family(_tokens(eos="</s>", unk="<unk>")),
    "RemBert": Family(_ALBERT_TOKENS, _LSTRIP, model_input_names=_TYPED),
    "RetriBert": _BERT._replace(model_input_names=("input_ids", "attention_mask")),
    "Roberta": _ROBERTA,
    "SeamlessM4T": Family(
        {name: token for name, token in _ROBERTA_TOKENS.items() if name != "mask_token"},
        defaults={"src_lang": "__eng__"},
        language="prefix",
    ),
    "Splinter": _BERT._replace(
        additional_special_tokens=("[QUESTION]",),
        defaults={"do_lower_case": True, "strip_accents": None},
        sync="bert_latin",
    ),
    "SqueezeBert": _BERT,
    "T5": Family(_T5_TOKENS),
    # transformers 5's generic class, and the only one here that 4 lacks.
    "TokenizersBackend": Family(),
    "Whisper": Family(
        _GPT2_TOKENS,
        _rich("bos", "eos", "unk", special=True, normalized=False),
        words_need_prefix_space=True,
    ),
    "XGLM": Family({name: token for name, token in _ROBERTA_TOKENS.items() if name != "mask_token"}),
    "XLMRoberta": _XLM_ROBERTA,
    "XLNet": _XLNET,
}

# The classes whose inputs transformers 5 names otherwise than 4 does.
_INPUTS_IN_5: Mapping[str, tuple[str, ...]] = {
    "DebertaV2": ("input_ids", "attention_mask", "token_type_ids"),
    **dict.fromkeys(
        ("Albert", "Funnel", "Herbert", "RemBert", "Splinter", "XLNet"),
        ("input_ids", "attention_mask"),
    ),
}


def family_of(name: str, by_5: bool) -> Family:
    """What a class implies for the files of a folder; `by_5` if transformers 5 wrote them.

    5 writes every additional special token down. Its classes pad token types with 0, and take pre-split words whether
    or not `add_prefix_space` is set.
    """
    if not by_5:
        return FAMILIES.get(name, GENERIC)
    family = FAMILIES.get(name, FAMILIES["TokenizersBackend"])
    return family._replace(
        additional_special_tokens=(),
        model_input_names=_INPUTS_IN_5.get(name, family.model_input_names),
        pad_token_type_id=0,
        words_need_prefix_space=False,
    )


def implied_additional_tokens(name: str, given: list[Any] | None, settings: Mapping[str, Any]) -> list[Any] | None:
    """The additional special tokens of the T5, Pegasus, XGLM and CodeLlama classes, which number theirs themselves."""
    if name in ("T5", "MT5"):
        if given is None or not any("<extra_id_" in str(token) for token in given):
            return [*(given or []), *(f"<extra_id_{i}>" for i in range(settings.get("extra_ids", 100)))]
    elif name == "Pegasus":
        offset, first = settings.get("offset", 103), settings.get("mask_token_sent", "<mask_1>")
        if given is None:
            return [*([first] if first is not None else []), *(f"<unk_{i}>" for i in range(2, offset))]
        tokens = [first, *given] if first is not None and first not in map(str, given) else list(given)
        return [*tokens, *(f"<unk_{i}>" for i in range(len(tokens), offset - 1))]
    elif name == "XGLM":
        return [*(given or []), *(word for word in (f"<madeupword{i}>" for i in range(7)) if word not in (given or []))]
    return given
