"""Tokenizers built in memory, hostile texts, and the comparison with transformers."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from functools import partial

import numpy as np
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from helpers.paths import DATA
from untorch.errors import InputError
from untorch.tokenizer import BatchEncoding

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "I've been waiting for a course like this my whole life. I hate this so much!",
    "Tokenizers split words into pieces; pieces make ids, and ids make models happy.",
    "Ünïcödé, naïve café, Straße, ŁÓDŹ — and 12,345.67 euros (or so)?",
    "她在北京工作。 日本語のテキスト。 한국어 문장입니다. Привет, мир! مرحبا بالعالم שלום עולם",
    "don't can't won't it's we're they've I'm he'll she'd",
] * 4

HOSTILE = [
    "",
    " ",
    "   \t\n  ",
    "\x00",
    "a\x00b\x01c\x7f",
    "tab\tnew\nline\r\nend",
    "\u00a0nbsp\u2003em\u200bzero\ufeffbom",
    "👍",
    "👨‍👩‍👧‍👦 family 🏳️‍🌈 flag 👩🏽‍🚀",
    "e\u0301 vs é; n\u0303; a" + "\u0300" * 40,
    "北京大学",
    "日本語とEnglishの混在",
    "한국어 띄어쓰기",
    "مرحبا بالعالم 123",
    "שלום \u202eעולם\u202c abc",
    "नमस्ते दुनिया",
    "ภาษาไทย",
    "𝕸𝖆𝖙𝖍 𝒜𝓁𝓅𝒽𝒶 ﬁ ﬂ ㎏ Ⅷ",
    "\U0001f1e9\U0001f1ea\U0001f1eb",
    "\ufffd replacement \uffff nonchar \U0010ffff",
    "[CLS] inside [SEP] the [MASK] text [PAD][UNK]",
    "<s> and </s> with <mask>,<pad><unk> and <|endoftext|> here",
    "[cls] [Mask]<MASK> < mask >",
    " leading and trailing  ",
    "don't !!! ... ?! ' n't 's ,",
    "http://example.com/?q=a%20b&c=d#e user@host.tld",
    "a" * 300,
    "x" * 100_000,
    "ab " * 3000,
    "word" + "!" * 500,
    "\n".join(str(i) for i in range(50)),
    "İstanbul ǅ ß ẞ ς Σ",
    "##ing ##s ▁under ▁▁ Ġspace",
    "<new> two words <new>glued two  words",
    "𐍈\u0600\u06dd\u070f",
]


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Seeded strings over the scripts, planes and control characters of Unicode; no surrogates."""
    draw = random.Random(seed)
    ranges = [(0, 0x7F), (0x80, 0x24F), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x6FF), (0x900, 0xDFF)]
    ranges += [(0x1100, 0x11FF), (0x2000, 0x206F), (0x2070, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF)]
    ranges += [(0xAC00, 0xD7A3), (0xE000, 0xF8FF), (0xFB00, 0xFFFF), (0x10000, 0x10FFFF), (0x1F300, 0x1FAFF)]
    return [
        "".join(
            " " if draw.random() < 0.15 else chr(draw.randint(*draw.choice(ranges))) for _ in range(draw.randint(1, 40))
        )
        for _ in range(count)
    ]


def written_down(name: str) -> Tokenizer:
    """A tokenizer that was trained on CORPUS once and is kept in tests/data.

    The trainers of WordPiece and Unigram break ties by the order of a hash map, which differs from process to process.
    """
    return Tokenizer.from_file(str(DATA / "tokenizers" / f"{name}.json"))


def byte_bpe() -> Tokenizer:
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("</s>", "<s>")]
    tokenizer.post_processor = processors.RobertaProcessing(*ends, add_prefix_space=False)
    return tokenizer


def word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = ["[UNK]", "[PAD]"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordLevelTrainer(special_tokens=specials, show_progress=False))
    return tokenizer


def character() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    specials = ["<unk>", "<pad>", "<s>", "</s>"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordLevelTrainer(special_tokens=specials, show_progress=False))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As LLaMA's: BPE over ▁-joined text, with byte tokens for what is not in the vocabulary."""
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    english = [text for text in CORPUS if text.isascii()]
    tokenizer.train_from_iterator(
        english, trainers.BpeTrainer(vocab_size=420, special_tokens=specials, show_progress=False)
    )
    # The byte tokens belong to the model, not to the added tokens.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = state["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


TINY = {
    "wordpiece": (
        partial(written_down, "wordpiece"),
        {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
    ),
    "byte_bpe": (byte_bpe, {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}),
    "unigram": (partial(written_down, "unigram"), {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}),
    "word_level": (word_level, {"unk_token": "[UNK]", "pad_token": "[PAD]"}),
    "character": (character, {"unk_token": "<unk>", "pad_token": "<pad>"}),
    "byte_fallback": (byte_fallback, {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}),
}


def edit_json(path, **changes):
    """Change keys of a JSON file; a value of None removes the key."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content.update(changes)
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


def bake_in(folder):
    """Put truncation and fixed padding inside tokenizer.json, as several published files have them."""
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(6, stride=1, direction="left")
    tokenizer.enable_padding(length=9, direction="left", pad_id=1, pad_token=tokenizer.id_to_token(1))
    tokenizer.save(str(path))


def legacy(folder):
    """As saved before added_tokens_decoder existed: two more files instead."""
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    decoder = config.pop("added_tokens_decoder")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    added = {token["content"]: int(index) for index, token in decoder.items()}
    (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")


VARIANTS = {
    "plain": lambda folder: None,
    "baked_in": bake_in,
    "left": lambda folder: edit_json(
        folder / "tokenizer_config.json", padding_side="left", truncation_side="left", model_max_length=11
    ),
    "unlimited": lambda folder: edit_json(folder / "tokenizer_config.json", model_max_length=int(1e30)),
    "no_map": lambda folder: (folder / "special_tokens_map.json").unlink(missing_ok=True),
    "legacy": legacy,
    "clean": lambda folder: edit_json(folder / "tokenizer_config.json", clean_up_tokenization_spaces=True),
}

MAJOR = int(transformers.__version__.partition(".")[0])
if MAJOR >= 5:
    # The older files are made of `added_tokens_decoder`, which 5 does not write.
    del VARIANTS["legacy"]


def attribute(theirs, name: str):
    """An attribute of transformers' tokenizer under the name that 4 has for it."""
    if MAJOR < 5:
        return getattr(theirs, name)
    extra = [str(token) for token in theirs.extra_special_tokens]
    if name == "special_tokens_map":
        return theirs.special_tokens_map | ({"additional_special_tokens": extra} if extra else {})
    if name == "additional_special_tokens":
        return extra
    if name == "additional_special_tokens_ids":
        return theirs.convert_tokens_to_ids(extra)
    return getattr(theirs, name)


def save_variant(plain, target, variant):
    """A copy of a saved tokenizer, changed."""
    shutil.copytree(plain, target)
    VARIANTS[variant](target)
    return target


def encoding_facts(encoding):
    names = ("ids", "tokens", "type_ids", "offsets", "attention_mask", "special_tokens_mask", "word_ids")
    return {name: getattr(encoding, name) for name in (*names, "sequence_ids", "n_sequences")}


def facts(answer):
    """Everything that a caller can see of an answer, in comparable form."""
    if isinstance(answer, np.ndarray):
        return ("array", answer.dtype.str, answer.shape, answer.tolist())
    if isinstance(answer, BatchEncoding) or type(answer).__name__ == "BatchEncoding":
        values = {name: facts(value) for name, value in answer.items()}
        rows = None if answer.encodings is None else [encoding_facts(row) for row in answer.encodings]
        return {"values": values, "order": list(answer), "rows": rows, "n_sequences": answer.n_sequences}
    return answer


def outcome(call):
    """The facts of what a call answers, or the kind of failure: (answer, error)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return facts(call()), None
        except BaseException as error:
            # tokenizers panics with a BaseException of its own kind.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            return None, error


def assert_same(theirs, ours, method, *args, **kwargs):
    """The same call on both gives the same answer."""
    assert assert_alike(theirs, ours, method, *args, **kwargs), "transformers refuses this call"


def assert_alike(theirs, ours, method, *args, **kwargs) -> bool:
    """The same call on both gives the same answer (True), or both refuse, untorch with an InputError (False)."""
    expected, their_error = outcome(lambda: getattr(theirs, method)(*args, **kwargs))
    actual, our_error = outcome(lambda: getattr(ours, method)(*args, **kwargs))
    if their_error is not None:
        assert isinstance(our_error, InputError), f"transformers: {their_error!r}; untorch: {our_error or actual!r}"
        return False
    assert our_error is None, f"transformers answers; untorch: {our_error!r}"
    assert actual == expected
    return True
