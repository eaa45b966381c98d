"""What a caller gives to `generate` besides settings: processors, criteria, prefixes, streamers and seeds."""

from __future__ import annotations

import asyncio
import queue
import random
import threading

import numpy as np
import pytest
import torch
import transformers

import untorch
from untorch import AutoTokenizer, InputError, pipeline

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

IDS = np.array([[40, 50, 60], [70, 80, 90]])
FAMILIES = ["Llama", "T5"]
GREEDY = {"max_new_tokens": 12, "do_sample": False}
BEAMS = {"max_new_tokens": 12, "num_beams": 3, "do_sample": False}


@pytest.fixture(scope="module")
def tokenizers(models):
    """(ours, transformers')."""
    folder = models("Llama")[0].bundle.path
    return AutoTokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


def processor(base):
    """A processor that forbids every other id, by turns the odd and the even: of either library."""

    class Alternating(base):
        def __init__(self):
            self.shapes = []

        def __call__(self, input_ids, scores):
            self.shapes.append((tuple(input_ids.shape), tuple(scores.shape)))
            scores = scores.copy() if hasattr(scores, "copy") else scores.clone()
            scores[:, input_ids.shape[1] % 2 :: 2] = -float("inf")
            return scores

    return Alternating()


def criterion(base):
    """A criterion that ends a row at an id that three divides: of either library."""

    class Divisible(base):
        def __init__(self):
            self.calls = []

        def __call__(self, input_ids, scores, **kwargs):
            self.calls.append((tuple(input_ids.shape), scores))
            return input_ids[:, -1] % 3 == 0

    return Divisible()


@pytest.mark.parametrize("settings", [GREEDY, BEAMS], ids=["greedy", "beams"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_processor_sees_and_changes_what_it_does_in_transformers(models, family, settings):
    ours, theirs = models(family)
    own, reference = processor(untorch.LogitsProcessor), processor(transformers.LogitsProcessor)
    got = ours.generate(IDS, logits_processor=untorch.LogitsProcessorList([own]), **settings)
    expected = theirs.generate(
        torch.tensor(IDS), logits_processor=transformers.LogitsProcessorList([reference]), **settings
    )
    np.testing.assert_array_equal(got, expected.numpy())
    assert own.shapes == reference.shapes
    assert not np.array_equal(got, ours.generate(IDS, **settings))


@pytest.mark.parametrize("settings", [GREEDY, BEAMS], ids=["greedy", "beams"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_criterion_ends_the_rows_that_it_does_in_transformers(models, family, settings):
    ours, theirs = models(family)
    own, reference = criterion(untorch.StoppingCriteria), criterion(transformers.StoppingCriteria)
    got = ours.generate(IDS, stopping_criteria=untorch.StoppingCriteriaList([own]), **settings)
    expected = theirs.generate(
        torch.tensor(IDS), stopping_criteria=transformers.StoppingCriteriaList([reference]), **settings
    )
    np.testing.assert_array_equal(got, expected.numpy())
    assert own.calls
    # transformers also asks once more where the length is used up.
    assert own.calls == reference.calls[: len(own.calls)]


@pytest.mark.parametrize("settings", [GREEDY, BEAMS], ids=["greedy", "beams"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_goes_on_with_allowed_tokens_only(models, family, settings):
    ours, theirs = models(family)

    def allowed(number, ids):
        assert ids.ndim == 1
        return [20 + number, 30 + int(ids[-1]) % 7, 31, 2]

    got = ours.generate(IDS, prefix_allowed_tokens_fn=allowed, **settings)
    expected = theirs.generate(torch.tensor(IDS), prefix_allowed_tokens_fn=allowed, **settings)
    np.testing.assert_array_equal(got, expected.numpy())


def test_lists_of_either_kind_call_what_is_in_them():
    twice = untorch.LogitsProcessorList([lambda ids, scores: scores + 1, lambda ids, scores: scores * 2])
    assert twice(IDS, np.ones((2, 4))).tolist() == [[4.0] * 4] * 2
    some = untorch.StoppingCriteriaList([lambda ids, scores: ids[:, -1] == 60, lambda ids, scores: False])
    assert some(IDS, None).tolist() == [True, False]
    assert untorch.StoppingCriteriaList()(IDS, None).tolist() == [False, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"logits_processor": 7}, "logits_processor is 7"),
        ({"logits_processor": [7]}, "list of functions"),
        ({"logits_processor": [lambda ids, scores: scores[:, :3]]}, r"the logits processor <lambda> gave float32 of"),
        ({"logits_processor": [lambda ids, scores: None]}, "the logits processor <lambda> gave object"),
        ({"stopping_criteria": lambda ids, scores: True}, "stopping_criteria is"),
        ({"stopping_criteria": [lambda ids, scores: 1]}, "the stopping criterion <lambda> gave 1"),
        ({"stopping_criteria": [lambda ids, scores: [True]]}, "one for each of the 2 rows"),
        ({"prefix_allowed_tokens_fn": 3}, "prefix_allowed_tokens_fn is 3"),
        ({"prefix_allowed_tokens_fn": lambda number, ids: []}, "gave no token"),
        ({"streamer": print}, "streamer is <built-in"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"generation_config": {"num_beams": 2}}, "generation_config is a dict"),
        ({"generation_config": 7}, "generation_config is a int"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_refused_by_name(models, arguments, message):
    with pytest.raises(InputError, match=message):
        models("Llama")[0].generate(IDS, **GREEDY, **arguments)


@pytest.mark.parametrize("base", ["LogitsProcessor", "StoppingCriteria", "BaseStreamer"])
def test_a_base_without_its_method_cannot_be_made(base):
    with pytest.raises(TypeError, match="abstract"):
        type("Mine", (getattr(untorch, base),), {})()


# ---- streamers ----

DECODING = [{}, {"skip_special_tokens": True}, {"clean_up_tokenization_spaces": True}]


def in_a_thread(model, inputs, streamer, **settings):
    thread = threading.Thread(target=model.generate, kwargs={**inputs, "streamer": streamer, **GREEDY, **settings})
    thread.start()
    pieces = list(streamer)
    thread.join(30)
    return pieces


@pytest.mark.parametrize("decoding", DECODING, ids=str)
@pytest.mark.parametrize("skip_prompt", [True, False])
def test_an_iterated_text_is_the_one_that_transformers_streams(models, tokenizers, skip_prompt, decoding):
    (ours, theirs), (own, reference) = models("Llama"), tokenizers
    for text in ("hello world", "it is the movie , and I have", "waiting\nfor good"):
        got = in_a_thread(
            ours,
            own([text], return_tensors="np"),
            untorch.TextIteratorStreamer(own, skip_prompt, timeout=30, **decoding),
        )
        expected = in_a_thread(
            theirs,
            reference([text], return_tensors="pt"),
            transformers.TextIteratorStreamer(reference, skip_prompt, timeout=30, **decoding),
        )
        assert "".join(got) == "".join(expected)
        assert len(got) > 2


@pytest.mark.parametrize("clean", [True, False, None])
def test_a_stream_is_cleaned_up_as_the_whole_text_is(tokenizers, clean):
    tokenizer, _ = tokenizers
    draw = random.Random(0)
    parts = [" .", " ?", " !", " ,", " '", " ' ", " n't", " 's", " 've", "a", "is", " ", "\n", "'", "n", "t", "."]
    for _ in range(300):
        text = "".join(draw.choices(parts, k=draw.randint(1, 12)))
        stream = tokenizer.decode_stream(False, clean)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces = [stream.step(index) or "" for index in ids] + [stream.flush() or ""]
        assert "".join(pieces) == tokenizer.decode(ids, clean_up_tokenization_spaces=clean)


def test_the_pipeline_streams_in_a_thread(models, tokenizers):
    ours, _ = models("Llama")
    generate = pipeline("text-generation", ours, tokenizers[0])
    streamer = untorch.TextIteratorStreamer(generate.tokenizer, True, timeout=30, skip_special_tokens=True)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(generate("hello world", streamer=streamer, **GREEDY)))
    thread.start()
    text = "".join(streamer)
    thread.join(30)
    assert answers[0][0]["generated_text"] == "hello world" + text


def test_a_stream_that_does_not_come_is_given_up_after_its_timeout(tokenizers):
    with pytest.raises(queue.Empty):
        next(untorch.TextIteratorStreamer(tokenizers[0], timeout=0.01))

    async def wait():
        await anext(untorch.AsyncTextIteratorStreamer(tokenizers[0], timeout=0.01))

    with pytest.raises(TimeoutError):
        asyncio.run(wait())


def test_a_task_iterates_without_blocking_its_loop(models, tokenizers):
    ours, _ = models("Llama")
    inputs = tokenizers[0](["hello world"], return_tensors="np")

    async def collect():
        streamer = untorch.AsyncTextIteratorStreamer(tokenizers[0], skip_prompt=True, timeout=30)
        thread = threading.Thread(target=ours.generate, kwargs={**inputs, "streamer": streamer, **GREEDY})
        thread.start()
        pieces = [piece async for piece in streamer]
        await asyncio.to_thread(thread.join)
        return "".join(pieces)

    new = ours.generate(**inputs, **GREEDY)[0, inputs["input_ids"].shape[1] :]
    assert asyncio.run(collect()) == tokenizers[0].decode(new)


@pytest.mark.parametrize("kind", ["TextStreamer", "TextIteratorStreamer"])
def test_a_streamer_takes_no_argument_that_it_would_drop(tokenizers, kind):
    make = getattr(untorch, kind)
    with pytest.raises(InputError, match=f"{kind} takes no argument skip_special_token; did you mean skip_special_tok"):
        make(tokenizers[0], skip_special_token=True)
    with pytest.raises(InputError, match="skip_prompt is 'yes'"):
        make(tokenizers[0], skip_prompt="yes")


# ---- seeds ----


def test_a_seed_for_all_repeats_what_is_drawn_after_it(models):
    ours, _ = models("Llama")
    settings = {"do_sample": True, "max_new_tokens": 8, "temperature": 3.0, "top_k": 0}

    def drawn(seed):
        untorch.set_seed(seed)
        return [ours.generate(IDS, **settings).tolist() for _ in range(3)] + [random.random(), np.random.random()]

    first, second, other = drawn(42), drawn(42), drawn(43)
    assert first == second
    assert first[:3] != other[:3]
    assert first[0] != first[1]
    transformers.set_seed(42)
    assert first[3:] == [random.random(), np.random.random()]


def test_a_seed_of_the_call_counts_before_the_one_for_all(models):
    ours, _ = models("Llama")
    settings = {"do_sample": True, "max_new_tokens": 8, "temperature": 3.0, "top_k": 0, "seed": 5}
    untorch.set_seed(1)
    first = ours.generate(IDS, **settings)
    untorch.set_seed(2)
    np.testing.assert_array_equal(first, ours.generate(IDS, **settings))


@pytest.mark.parametrize("seed", [None, "x", 1.5, -1, 2**32, True])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(InputError, match="seed is"):
        untorch.set_seed(seed)


def test_the_new_names_stand_where_transformers_has_them():
    import inspect

    for name in ("set_seed", "TextStreamer", "TextIteratorStreamer", "AsyncTextIteratorStreamer"):
        ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (untorch, transformers))
        assert [(one.name, one.default, one.kind) for one in ours.values()] == [
            (one.name, one.default, one.kind) for one in theirs.values()
        ]
