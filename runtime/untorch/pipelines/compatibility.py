"""Arguments of transformers' pipelines that mean nothing here, or cannot be had: data, with the reason for each.

What a task does take is declared by its pipeline. A name is on neither list only if transformers has no such name.
"""

from __future__ import annotations

from collections.abc import Mapping

from untorch.bundle.arguments import Rule

_NO_TEXT = Rule((), "untorch runs text tasks; leave it out")

# Of `pipeline(…)` and of the pipeline classes. `device_map`, `dtype`, `torch_dtype`, `model_kwargs` and
# `pipeline_class` are read in arguments.py.
LOADING: Mapping[str, Rule] = {
    "config": Rule((), "a bundle has its own config.json; export the checkpoint again with this one"),
    "feature_extractor": _NO_TEXT,
    "image_processor": _NO_TEXT,
    "video_processor": _NO_TEXT,
    "processor": _NO_TEXT,
    "framework": Rule(("pt",), "a bundle gives PyTorch's answers"),
    "use_fast": Rule((True,), "untorch has fast tokenizers only"),
    "token": Rule((), "set the environment variable HF_TOKEN, which is read whenever a bundle comes from the Hub"),
    "use_auth_token": Rule((), "set the environment variable HF_TOKEN"),
    "trust_remote_code": Rule(None, "a bundle has no code that could be run"),
    "code_revision": Rule((), "a bundle has no code; revision= names the bundle's"),
    "modelcard": Rule((), "a bundle's model card is its README.md"),
    "binary_output": Rule((False,), "pickle the answers yourself"),
    "args_parser": Rule((), "transformers itself does not let it be changed"),
    "assistant_model": Rule((), "assisted decoding is not supported"),
    "assistant_tokenizer": Rule((), "assisted decoding is not supported"),
}

# Of the tokenizer's call, where a task passes arguments on to it.
TOKENIZER: Mapping[str, Rule] = {
    "verbose": Rule(None, "it only silences warnings"),
    "stride": Rule((0,), "a text is one row; stride divides texts in token-classification only"),
    "is_split_into_words": Rule((False,), "a text is one str; join the words"),
    "padding_side": Rule((), "rows are padded on the right, where padding changes no answer"),
    "return_tensors": Rule((), "the pipeline chooses the form of what the model reads"),
    "return_token_type_ids": Rule((), "the model is fed what the checkpoint names"),
    "return_attention_mask": Rule((True,), "without a mask padding would count as text"),
    "return_overflowing_tokens": Rule((False,), "a text is one row; divide long texts yourself"),
    "return_special_tokens_mask": Rule((False,), "a pipeline gives answers; call pipeline.tokenizer for masks"),
    "return_offsets_mapping": Rule((False,), "a pipeline gives answers; call pipeline.tokenizer for offsets"),
    "return_length": Rule((False,), "a pipeline gives answers; call pipeline.tokenizer for lengths"),
    "split_special_tokens": Rule((False,), "set pipeline.tokenizer.split_special_tokens"),
    "text": Rule((), "the text is the first argument of the call"),
    "text_pair": Rule((), 'a pair is the first argument of the call: {"text": …, "text_pair": …}'),
    "text_target": Rule((), "a pipeline reads no targets"),
    "text_pair_target": Rule((), "a pipeline reads no targets"),
}

# Of one task's calls.
TOKEN_CLASSIFICATION: Mapping[str, Rule] = {
    "offset_mapping": Rule((), "the tokenizer gives the offsets itself"),
}
QUESTION_ANSWERING: Mapping[str, Rule] = {
    "max_question_len": Rule(None, "as with every fast tokenizer in transformers, questions are never cut"),
}
