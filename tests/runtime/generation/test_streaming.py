"""Streams, stop strings and the streamer's interface."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from untorch import AutoTokenizer, InputError, TextStreamer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def tokenizers(models):
    """(ours, transformers')."""
    ours, _ = models("Llama")
    folder = ours.bundle.path
    return AutoTokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


class Collector(TextStreamer):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.pieces = []

    def on_finalized_text(self, text, stream_end=False):
        self.pieces.append(text)
        self.ended = stream_end


@pytest.mark.parametrize("family", ["Llama", "T5"])
def test_the_streamed_tokens_are_the_generated_ones(models, family):
    ours, _ = models(family)
    ids = np.array([[40, 50, 60], [70, 80, 90]])
    whole = ours.generate(input_ids=ids, max_new_tokens=9)
    steps = list(ours.stream(input_ids=ids, max_new_tokens=9))
    np.testing.assert_array_equal(np.stack(steps, axis=1), whole[:, -len(steps) :])


@pytest.mark.parametrize("skip_prompt", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_a_streamers_text_joins_to_what_decode_gives(models, tokenizers, skip_prompt, seed):
    ours, _ = models("Llama")
    tokenizer, _ = tokenizers
    inputs = tokenizer(["hello 世界"], return_tensors="np")
    # At a high temperature, random bytes: half characters and impossible ones.
    options = {"max_new_tokens": 40, "do_sample": True, "temperature": 5.0, "top_k": 0, "seed": seed}
    collector = Collector(tokenizer, skip_prompt=skip_prompt)
    output = ours.generate(**inputs, streamer=collector, **options)
    row = output[0, inputs["input_ids"].shape[1] :] if skip_prompt else output[0]
    assert "".join(collector.pieces) == tokenizer.decode(row, clean_up_tokenization_spaces=False)
    assert collector.ended
    assert len(collector.pieces) > 5


def test_a_streamer_shows_one_sequence(models, tokenizers):
    ours, _ = models("Llama")
    with pytest.raises(InputError, match="one sequence"):
        ours.generate(input_ids=[[5, 6], [7, 8]], streamer=TextStreamer(tokenizers[0]))
    with pytest.raises(InputError, match="beam search"):
        ours.generate(input_ids=[[5, 6]], num_beams=2, streamer=TextStreamer(tokenizers[0]))
    with pytest.raises(InputError, match="beam search"):
        ours.stream(input_ids=[[5, 6]], num_beams=2)


def test_stop_strings_stop_where_transformers_does(models, tokenizers):
    ours, theirs = models("Llama")
    tokenizer, reference = tokenizers
    stopped = 0
    for start in range(30, 40):
        ids = np.array([[start, 50, 60]])
        text = tokenizer.decode(ours.generate(ids, max_new_tokens=20)[0, 3:], clean_up_tokenization_spaces=False)
        readable = [char for char in text if char.isascii()]
        strings = [*readable[3:5], text[6:9] if text[6:9].isascii() else "never"]
        for stop in filter(None, [*strings, strings]):
            options = {"max_new_tokens": 20, "stop_strings": stop}
            expected = theirs.generate(torch.from_numpy(ids), tokenizer=reference, **options).numpy()
            got = ours.generate(ids, tokenizer=tokenizer, **options)
            np.testing.assert_array_equal(got, expected)
            stopped += got.shape[1] < 23
    assert stopped > 8
