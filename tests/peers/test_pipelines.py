"""What transformers 4.57's tests of its text pipelines claim, held for untorch against transformers itself.

A test's name begins with the task of the file tests/pipelines/test_pipelines_….py in which transformers checks the
same; README.md lists them all. The checkpoints are small, random and made on the spot.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import transformers
from transformers.pipelines import PipelineException

from helpers.comparing import both, same, transformers_pipeline
from helpers.tokenizers import MAJOR
from untorch import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    FeatureExtractionPipeline,
    Pipeline,
    SequenceTooLongError,
    TextClassificationPipeline,
    TokenClassificationPipeline,
    pipeline,
)
from untorch.errors import DeviceError, InputError, TaskError

pytest.importorskip("torch", reason="the checkpoints are made and exported with it")

of_4 = pytest.mark.skipif(MAJOR >= 5, reason="transformers 5 has no summarization and translation pipelines")

TEXTS = ["This is a good movie!", "I hate this city"]
NAMES = ("contradiction", "neutral", "entailment")
ENTITIES = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG")
QUESTION = "Where is the good city?"
CONTEXT = "The people love this movie. The good city is here, and my life is there."


def labels(names) -> dict:
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


@pytest.fixture(scope="session")
def made(make_bundle):
    """`made(kind)` → (checkpoint, bundle): a small random model of that kind."""
    from helpers.checkpoints import small_bert
    from helpers.generators import generator

    makers = {
        "classifier": lambda folder: small_bert(folder, **labels(NAMES)),
        "tagger": lambda folder: small_bert(folder, "BertForTokenClassification", **labels(ENTITIES)),
        "filler": lambda folder: small_bert(folder, "BertForMaskedLM"),
        "reader": lambda folder: small_bert(folder, "BertForQuestionAnswering"),
        "encoder": lambda folder: small_bert(folder, "BertModel"),
        "writer": lambda folder: generator(folder, "GPT2"),
        "answerer": lambda folder: generator(
            folder,
            "T5",
            task_specific_params={
                "translation_en_to_de": {"prefix": "good ", "num_beams": 3, "max_length": 20},
                "summarization": {"prefix": "life: ", "num_beams": 2, "max_length": 20},
            },
        ),
    }
    return lambda kind: make_bundle(f"peers-{kind}", makers[kind], precisions=["fp32"])


@pytest.fixture
def classifiers(made):
    return both("text-classification", *made("classifier"))


@pytest.fixture
def writers(made):
    return both("text-generation", *made("writer"))


def assert_same(pair, *inputs, **arguments):
    """Both pipelines give the same answer to one call."""
    ours, theirs = pair
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same(ours(*inputs, **arguments), theirs(*inputs, **arguments))


def assert_both_refuse(pair, *inputs, **arguments):
    """Neither pipeline answers a call; untorch says so with an InputError."""
    ours, theirs = pair
    with pytest.raises((ValueError, TypeError, AttributeError, LookupError, RuntimeError, PipelineException)):
        theirs(*inputs, **arguments)
    with pytest.raises(InputError):
        ours(*inputs, **arguments)


# test_pipelines_common.py


def test_common_pipeline_iteration(classifiers):
    class Dataset:
        def __len__(self):
            return len(TEXTS)

        def __getitem__(self, index):
            return TEXTS[index]

    ours, theirs = classifiers
    same(list(ours(Dataset())), [theirs(text)[0] for text in TEXTS])


def test_common_check_task_auto_inference(made):
    assert isinstance(pipeline(model=made("tagger")[1]), TokenClassificationPipeline)


def test_common_pipeline_batch_size_global(made):
    bundle = made("classifier")[1]
    alone, batched = pipeline("text-classification", bundle), pipeline("text-classification", bundle, batch_size=2)
    same(batched(TEXTS * 3), alone(TEXTS * 3), tolerance=1e-5)


def test_common_pipeline_pathlike(made, tmp_path):
    ours = pipeline("text-classification", made("classifier")[1])
    ours.save_pretrained(tmp_path / "saved")
    again = pipeline(task="text-classification", model=tmp_path / "saved")
    assert isinstance(again, TextClassificationPipeline)
    same(again(TEXTS), ours(TEXTS))
    with pytest.raises(InputError, match="not empty"):
        ours.save_pretrained(tmp_path / "saved")


def test_common_save_pretrained_with_another_tokenizer_is_refused(made, tmp_path):
    ours = pipeline("text-classification", made("classifier")[1], tokenizer=str(made("tagger")[1]))
    with pytest.raises(InputError, match="tokenizer"):
        ours.save_pretrained(tmp_path / "saved")


def test_common_pipeline_override(made):
    class MyPipeline(TextClassificationPipeline):
        pass

    ours = pipeline("text-classification", made("classifier")[1], pipeline_class=MyPipeline)
    assert isinstance(ours, MyPipeline)


def test_common_iterator_data(classifiers):
    ours, theirs = classifiers
    expected = theirs(TEXTS[0])[0]
    for workers in (None, 2):
        answers = list(ours((TEXTS[0] for _ in range(10)), num_workers=workers))
        assert len(answers) == 10
        same(answers, [expected] * 10)


def test_common_torch_dtype_property(made):
    # Named in docs/differences.md: `precision` instead of a torch type.
    ours = pipeline("text-classification", made("classifier")[1], dtype="float32")
    assert ours.precision == "fp32"
    with pytest.raises(InputError, match="bfloat16"):
        pipeline("text-classification", made("classifier")[1], dtype="bfloat16")


def test_common_pipeline_predict(classifiers):
    ours, theirs = classifiers
    same(ours.predict(TEXTS), theirs.predict(TEXTS))


def test_common_pipeline_transform(classifiers):
    ours, theirs = classifiers
    same(ours.transform(TEXTS), theirs.transform(TEXTS))


def test_common_pipeline_negative_device(made):
    assert str(pipeline("text-classification", made("classifier")[1], device=-1).device) == "cpu"


def test_common_pipeline_no_device(made):
    model = AutoModelForSequenceClassification.from_pretrained(made("classifier")[1], device="cpu")
    ours = pipeline("text-classification", model=model)
    assert ours.device == model.device
    with pytest.raises((DeviceError, InputError)):
        pipeline("text-classification", model=model, device="cuda:1")


def test_common_pipeline_with_task_parameters_no_side_effects(made):
    source, bundle = made("answerer")
    plain = pipeline("text2text-generation", bundle)
    ours = pipeline("translation_en_to_de", model=plain.model)
    assert ours.generation_config.num_beams == 3
    assert plain.model.generation_config.num_beams in (None, 1)
    assert len(ours("this is a movie", num_return_sequences=3)) == 3
    with pytest.raises(InputError):
        ours("this is a movie", num_return_sequences=3, num_beams=1)
    if MAJOR < 5:
        theirs = transformers_pipeline("translation_en_to_de", str(source))
        same(ours("this is a movie"), theirs("this is a movie"))


def test_common_register_pipeline():
    # Named in docs/differences.md: tasks are a fixed table.
    with pytest.raises(TaskError, match="custom-text-classification"):
        pipeline("custom-text-classification")


# test_pipelines_text_classification.py


def test_text_classification_small_model(classifiers):
    for arguments in ({}, {"top_k": 2}, {"top_k": 1}, {"top_k": None}, {"function_to_apply": "sigmoid"}):
        for given in (TEXTS[0], TEXTS):
            assert_same(classifiers, given, **arguments)


@pytest.mark.skipif(int(transformers.__version__.partition(".")[0]) >= 5, reason="transformers 5 dropped the argument")
def test_text_classification_return_all_scores(classifiers):
    for every in (True, False):
        for given in (TEXTS[0], TEXTS):
            assert_same(classifiers, given, return_all_scores=every)


def test_text_classification_accepts_torch_device(made):
    import torch

    ours = pipeline("text-classification", made("classifier")[1], device=torch.device("cpu"))
    assert str(ours.device) == "cpu"


def test_text_classification_accepts_torch_dtype(made):
    import torch

    assert pipeline("text-classification", made("classifier")[1], torch_dtype=torch.float32).precision == "fp32"


def test_text_classification_run_pipeline_test(classifiers):
    pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    for given in (TEXTS[0], TEXTS, pair, [[TEXTS]]):
        assert_same(classifiers, given)
    assert_same(classifiers, TEXTS, top_k=None)
    assert_both_refuse(classifiers, [TEXTS])
    assert classifiers[0](TEXTS[0])[0]["label"] in classifiers[0].model.config.id2label.values()


# test_pipelines_token_classification.py


@pytest.fixture
def taggers(made):
    return both("token-classification", *made("tagger"))


def test_token_classification_run_pipeline_test(taggers):
    for given in (TEXTS[0], TEXTS):
        assert_same(taggers, given)
        assert_same(taggers, given, ignore_labels=["I-PER"])


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "max", "average"])
def test_token_classification_aggregation_strategy(taggers, strategy):
    for text in (*TEXTS, "Consuelo Araujo works at the UN, my people."):
        assert_same(taggers, text, aggregation_strategy=strategy)


@pytest.mark.parametrize("strategy", ["simple", "first", "max", "average"])
def test_token_classification_aggregation_strategy_no_b_i_prefix(made, strategy):
    pair = both("token-classification", *made("tagger"))
    # Cached pipelines are shared between tests, so that the labels are put back.
    configs = [one.model.config for one in pair]
    before = [dict(config.id2label) for config in configs]
    try:
        for config in configs:
            config.id2label.update({0: "O", 1: "MISC", 2: "PER", 3: "ORG", 4: "LOC"})
        assert_same(pair, "Enzo works at the UN", aggregation_strategy=strategy)
    finally:
        for config, names in zip(configs, before, strict=True):
            config.id2label.update(names)


def test_token_classification_grouped_entities(made):
    bundle = made("tagger")[1]
    by_strategy = {
        name: pipeline("ner", bundle, aggregation_strategy=name)(TEXTS[0]) for name in ("simple", "first", "none")
    }
    same(pipeline("ner", bundle, grouped_entities=True)(TEXTS[0]), by_strategy["simple"])
    same(pipeline("ner", bundle, grouped_entities=True, ignore_subwords=True)(TEXTS[0]), by_strategy["first"])
    same(pipeline("ner", bundle, grouped_entities=False)(TEXTS[0]), by_strategy["none"])


def test_token_classification_strategy_by_enumeration(made):
    from transformers.pipelines import AggregationStrategy

    ours = pipeline("ner", made("tagger")[1], aggregation_strategy=AggregationStrategy.SIMPLE)
    same(ours(TEXTS[0]), both("token-classification", *made("tagger"))[1](TEXTS[0], aggregation_strategy="simple"))


def test_token_classification_gather_pre_entities(taggers):
    ours = taggers[0](TEXTS[0], ignore_labels=[])
    assert [TEXTS[0][one["start"] : one["end"]].lower() for one in ours] == [
        one["word"].removeprefix("##") for one in ours
    ]
    assert_same(taggers, TEXTS[0], ignore_labels=[])


def test_token_classification_small_model(taggers):
    assert_same(taggers, TEXTS, ignore_labels=list(ENTITIES))
    ours = taggers[0]
    same(ours(TEXTS, batch_size=2), ours(TEXTS))


def test_token_classification_offset_mapping_is_refused(taggers):
    # Named in docs/differences.md.
    with pytest.raises(InputError, match="offset_mapping"):
        taggers[0](TEXTS[0], offset_mapping=[(0, 0), (0, 1)])


@pytest.mark.parametrize("stride", [0, 4])
def test_token_classification_chunking(taggers, stride):
    assert_same(taggers, " ".join(TEXTS * 20), stride=stride, aggregation_strategy="simple")


def test_token_classification_errors(taggers):
    ours = taggers[0]
    for given in (None, 3, [3]):
        with pytest.raises(InputError):
            ours(given)
    with pytest.raises(InputError):
        ours(*TEXTS)
    same(ours([]), [])


# test_pipelines_fill_mask.py


@pytest.fixture
def fillers(made):
    return both("fill-mask", *made("filler"))


MASKED = "This is a [MASK]"


def test_fill_mask_run_pipeline_test(fillers):
    for given in (MASKED, [MASKED], [MASKED, "Another [MASK] great test."]):
        assert_same(fillers, given)
    assert_both_refuse(fillers, [None])
    assert_both_refuse(fillers, "This is")


def test_fill_mask_targets(fillers):
    vocabulary = fillers[0].tokenizer.get_vocab()
    targets = sorted(vocabulary)[-2:]
    assert_same(fillers, MASKED, targets=targets)
    answer = fillers[0](MASKED, targets=targets)
    assert {one["token"] for one in answer} == {vocabulary[target] for target in targets}
    for wrong in ([""], [], ""):
        assert_both_refuse(fillers, MASKED, targets=wrong)


def test_fill_mask_top_k(fillers):
    assert_same(fillers, MASKED, top_k=2)
    same(pipeline("fill-mask", fillers[0].model.bundle.path, top_k=2)(MASKED), fillers[0](MASKED, top_k=2))


def test_fill_mask_top_k_targets(fillers):
    targets = sorted(fillers[0].tokenizer.get_vocab())[-3:]
    assert_same(fillers, MASKED, top_k=2, targets=targets)


def test_fill_mask_with_duplicate_targets_and_top_k(fillers):
    first, second, third = sorted(fillers[0].tokenizer.get_vocab())[-3:]
    assert_same(fillers, MASKED, targets=[first, third, second, third, first], top_k=10)


def test_fill_mask_with_multiple_masks(fillers):
    assert_same(fillers, "This is a [MASK] [MASK] [MASK]", top_k=2)


def test_fill_mask_model_no_pad(made):
    ours = pipeline("fill-mask", made("filler")[1])
    expected = ours(MASKED)
    ours.tokenizer.pad_token_id = None
    same(ours(MASKED), expected)


# test_pipelines_feature_extraction.py


@pytest.fixture
def encoders(made):
    return both("feature-extraction", *made("encoder"))


def test_feature_extraction_small_model(encoders):
    assert_same(encoders, "This is a test")


def test_feature_extraction_tokenization_small_model(encoders):
    assert_same(encoders, "This is a test", tokenize_kwargs={"max_length": 3})
    texts = ["This is a test", "This", "This is", "This is a test test test test"]
    assert_same(encoders, texts, tokenize_kwargs={"truncation": True, "padding": True, "max_length": 4})
    assert_same(encoders, texts, truncation=True, tokenize_kwargs={"padding": True, "max_length": 4})
    assert_both_refuse(encoders, texts, truncation=True, tokenize_kwargs={"truncation": True})


def test_feature_extraction_return_tensors(encoders):
    ours, theirs = encoders
    answer, expected = ours("This is a test", return_tensors=True), theirs("This is a test", return_tensors=True)
    assert isinstance(answer, np.ndarray)
    np.testing.assert_allclose(answer, expected.numpy(), atol=1e-4)


def test_feature_extraction_run_pipeline_test(encoders):
    assert_same(encoders, ["This is a test", "Another longer test"])
    assert_same(encoders, "This is a test" * 100, truncation=True)
    assert isinstance(encoders[0], FeatureExtractionPipeline)


# test_pipelines_zero_shot.py


@pytest.fixture
def judges(made):
    return both("zero-shot-classification", *made("classifier"))


def test_zero_shot_run_pipeline_test(judges):
    text = "Who are you voting for in 2020?"
    for candidates in ("politics", ["politics"], "politics, public health", ["politics", "public health"]):
        assert_same(judges, text, candidate_labels=candidates)
    assert_same(judges, text, ["politics"])
    assert_same(judges, text, candidate_labels="politics", hypothesis_template="This text is about {}")
    assert_same(judges, ["I am happy"], ["positive", "negative"])
    assert_same(judges, ["I am happy", "I am sad"], ["positive", "negative"])
    for wrong in (
        {"candidate_labels": ""},
        {"candidate_labels": None},
        {"candidate_labels": "politics", "hypothesis_template": "Not formatting template"},
    ):
        assert_both_refuse(judges, text, **wrong)
    for empty in ("", None):
        assert_both_refuse(judges, empty, candidate_labels="politics")


def test_zero_shot_hypothesis_template_none(judges):
    # Named in docs/differences.md: None is the default.
    text = TEXTS[0]
    same(
        judges[0](text, candidate_labels="good", hypothesis_template=None),
        judges[0](text, candidate_labels="good"),
    )


def test_zero_shot_entailment_id(judges, made):
    assert judges[0].entailment_id == judges[1].entailment_id == 2


def test_zero_shot_truncation(judges):
    # Cut only when asked to: docs/differences.md.
    ours, theirs = judges
    given = {"sequences": "Who are you voting for in 2020?" * 100, "candidate_labels": ["politics", "science"]}
    with pytest.raises(SequenceTooLongError, match="truncation=True"):
        ours(**given)
    same(ours(**given, truncation=True), theirs(**given))


def test_zero_shot_small_model(judges):
    for several in (True, False):
        assert_same(judges, TEXTS[0], candidate_labels=["politics", "health", "science"], multi_label=several)


# test_pipelines_question_answering.py


@pytest.fixture
def readers(made):
    return both("question-answering", *made("reader"))


def test_question_answering_run_pipeline_test(readers):
    assert_same(readers, question=QUESTION, context=CONTEXT)
    assert_same(readers, question=QUESTION, context=CONTEXT, handle_impossible_answer=True)
    assert_same(readers, question=[QUESTION, "Who?"], context=CONTEXT)
    assert_same(readers, question=[QUESTION, "Who?"], context=[CONTEXT, "good people"])
    assert_same(readers, question=QUESTION, context=CONTEXT, top_k=20)
    assert_same(readers, question=QUESTION, context=CONTEXT * 10)
    ours = readers[0]
    same(ours(question=QUESTION, context=CONTEXT * 10, batch_size=2), ours(question=QUESTION, context=CONTEXT * 10))
    if MAJOR >= 5:  # its pipeline, which refused these, is gone
        return
    for wrong in ({"question": "", "context": CONTEXT}, {"question": None, "context": CONTEXT}):
        assert_both_refuse(readers, **wrong)
    for wrong in ({"question": QUESTION, "context": ""}, {"question": QUESTION, "context": None}):
        assert_both_refuse(readers, **wrong)


def test_question_answering_small_model(readers):
    assert_same(readers, {"question": QUESTION, "context": CONTEXT})


def test_question_answering_small_model_iterator(readers):
    ours, theirs = readers
    expected = theirs(question=QUESTION, context=CONTEXT)
    answers = list(ours({"question": QUESTION, "context": CONTEXT} for _ in range(5)))
    same(answers, [expected] * 5)


def test_question_answering_align_to_words(readers):
    assert_same(readers, question=QUESTION, context=CONTEXT, align_to_words=False)


def test_question_answering_long_context_cls(readers):
    assert_same(
        readers, question=QUESTION, context=CONTEXT * 10, handle_impossible_answer=True, max_seq_len=50, doc_stride=8
    )


def test_question_answering_argument_handler(readers):
    ours, theirs = readers
    one = {"question": QUESTION, "context": CONTEXT}
    expected = theirs(**one)
    same(ours(QUESTION, CONTEXT), expected)
    for given in (one, [one], {**one, "id": 7}):
        same(ours(given), expected)
    same(ours([one, one]), [expected, expected])
    for name in ("X", "data"):
        for given in (one, [one]):
            same(ours(**{name: given}), expected)


def test_question_answering_argument_handler_error_handling(readers):
    ours = readers[0]
    for wrong in (
        {"context": CONTEXT},
        {"question": QUESTION},
        {"question": None, "context": CONTEXT},
        {"question": "", "context": CONTEXT},
        {"question": QUESTION, "context": None},
        {"question": QUESTION, "context": ""},
    ):
        for given in (wrong, [wrong], [{"question": QUESTION, "context": CONTEXT}, wrong]):
            with pytest.raises(InputError):
                ours(given)
    for arguments in (
        {"question": {"This": "Is weird"}, "context": "This is a context"},
        {"question": [QUESTION] * 2, "context": [CONTEXT] * 3},
        {"question": [QUESTION] * 3, "context": [CONTEXT] * 2},
    ):
        with pytest.raises(InputError):
            ours(**arguments)
    for given in ((None, CONTEXT), ("", CONTEXT), (QUESTION, None), (QUESTION, "")):
        with pytest.raises(InputError):
            ours(*given)


def test_question_answering_argument_handler_old_format(readers):
    assert_same(readers, question=[QUESTION] * 2, context=[CONTEXT] * 2)


def test_question_answering_argument_handler_error_handling_odd(readers):
    for given in ((None,), (1,)):
        with pytest.raises(InputError):
            readers[0](*given)
    with pytest.raises(InputError):
        readers[0](Y=None)


# test_pipelines_text_generation.py


def test_text_generation_small_model(writers):
    for given in (TEXTS[0], TEXTS):
        assert_same(writers, given, do_sample=False, max_new_tokens=6)
    drawn = writers[0](TEXTS[0], do_sample=True, num_return_sequences=2, return_tensors=True, max_new_tokens=6)
    assert [list(one) for one in drawn] == [["generated_token_ids"]] * 2
    # The padding of a batch is no part of an answer here: docs/differences.md.
    given = {"do_sample": False, "return_tensors": True, "max_new_tokens": 6}
    same(writers[0](TEXTS, batch_size=2, **given), writers[1](TEXTS, **given))


def test_text_generation_small_chat_model(writers):
    chat = [{"role": "system", "content": "This is a good movie."}, {"role": "user", "content": "this city"}]
    for given in (chat, [chat, chat]):
        assert_same(writers, given, do_sample=False, max_new_tokens=6)


def test_text_generation_small_chat_model_continue_final_message(writers):
    chat = [{"role": "user", "content": "good movie"}, {"role": "assistant", "content": "this"}]
    assert_same(writers, chat, do_sample=False, max_new_tokens=6)


def test_text_generation_small_chat_model_continue_final_message_override(writers):
    chat = [{"role": "user", "content": "good movie"}]
    assert_same(writers, chat, do_sample=False, max_new_tokens=6, continue_final_message=True)


def test_text_generation_small_chat_model_with_dataset(writers):
    chat = [{"role": "user", "content": "good movie"}]
    ours, theirs = writers
    expected = theirs(chat, do_sample=False, max_new_tokens=6)
    answers = list(ours(iter([chat, chat]), do_sample=False, max_new_tokens=6))
    same(answers, [expected] * 2)


@pytest.mark.skipif(MAJOR >= 5, reason="transformers 5 takes it for stop_strings: docs/differences.md")
def test_text_generation_stop_sequence_stopping_criteria(writers):
    whole = writers[1]("good", do_sample=False, max_new_tokens=10, return_full_text=False)[0]["generated_text"]
    assert_same(writers, "good", do_sample=False, max_new_tokens=10, stop_sequence=whole[2:4])


def test_text_generation_run_pipeline_test(writers):
    for arguments in ({}, {"return_full_text": False}, {"return_full_text": True}):
        assert_same(writers, "This is a test", do_sample=False, max_new_tokens=6, **arguments)
    for wrong in (
        {"return_full_text": True, "return_text": True},
        {"return_full_text": True, "return_tensors": True},
        {"return_text": True, "return_tensors": True},
    ):
        assert_both_refuse(writers, "test", **wrong)
    assert_same(writers, "", do_sample=False, max_new_tokens=6)
    drawn = writers[0](TEXTS, num_return_sequences=2, do_sample=True, batch_size=2, max_new_tokens=6)
    assert [len(one) for one in drawn] == [2, 2]


def test_text_generation_long_generation(writers):
    long = "This is a test" * 100
    assert_both_refuse(writers, long, max_new_tokens=20)
    assert_same(writers, long, handle_long_generation="hole", max_new_tokens=20, do_sample=False)
    limit = writers[0].tokenizer.model_max_length
    assert_both_refuse(writers, long, handle_long_generation="hole", max_new_tokens=limit + 10)


def test_text_generation_prefix(writers):
    assert_same(writers, "good", prefix="this movie ", do_sample=False, max_new_tokens=6)


def test_text_generation_forward_tokenizer_kwargs(writers):
    long = "This is a test" * 40
    assert_same(writers, long, do_sample=False, max_new_tokens=6, truncation=True, max_length=12)


def test_text_generation_return_dict_in_generate(writers):
    # Named in docs/differences.md: a pipeline gives answers.
    with pytest.raises(InputError, match="return_dict_in_generate"):
        writers[0]("good", return_dict_in_generate=True, output_logits=True)


def test_text_generation_pipeline_length_setting(writers):
    # Named in docs/differences.md: max_new_tokens counts, as in transformers, and no warning is logged.
    assert_same(writers, "good", do_sample=False, max_length=30, max_new_tokens=2)
    assert_same(writers, "good", do_sample=False, max_new_tokens=1)


def test_text_generation_top_p(writers):
    assert writers[0]("This is a test", do_sample=True, top_p=0.5, max_new_tokens=4)[0]["generated_text"]


def test_text_generation_assisted_generation_is_refused(made):
    # Named in docs/differences.md.
    with pytest.raises(InputError, match="assistant_model"):
        pipeline("text-generation", made("writer")[1], assistant_model="another")


# test_pipelines_text2text_generation.py, test_pipelines_summarization.py, test_pipelines_translation.py


def test_text2text_generation_run_pipeline_test(made):
    pair = both("text2text-generation", *made("answerer"))
    assert_same(pair, "Something there", max_new_tokens=8)
    assert_same(pair, TEXTS, max_new_tokens=8, num_beams=1)
    drawn = pair[0](TEXTS, num_return_sequences=2, do_sample=True, num_beams=1, max_new_tokens=6, batch_size=2)
    assert [len(one) for one in drawn] == [2, 2]
    assert_both_refuse(pair, 4)


def test_text2text_generation_small_model(made):
    pair = both("text2text-generation", *made("answerer"))
    assert_same(pair, "Something there", num_return_sequences=3, num_beams=3, max_new_tokens=8)
    ids = pair[0]("This is a test", num_beams=1, return_tensors=True, max_new_tokens=6)[0]["generated_token_ids"]
    assert isinstance(ids, np.ndarray)


@of_4
def test_summarization_run_pipeline_test(made):
    pair = both("summarization", *made("answerer"))
    for arguments in ({}, {"num_beams": 2, "min_length": 2, "max_length": 5}):
        assert_same(pair, "This is a good movie", **arguments)
    assert_same(pair, "This " * 300, truncation="only_first")


@of_4
def test_summarization_small_model(made):
    source, bundle = made("answerer")
    ours = pipeline("summarization", bundle, max_new_tokens=5)
    theirs = transformers_pipeline("summarization", str(source), max_new_tokens=5)
    assert_same((ours, theirs), "This is a small test")


@of_4
def test_translation_run_pipeline_test(made):
    source, bundle = made("answerer")
    pair = pipeline("translation_en_to_de", bundle), transformers_pipeline("translation_en_to_de", str(source))
    for given in ("Some string", ["Some string"], ["Some string", "other string"]):
        assert_same(pair, given)


@of_4
def test_translation_small_model(made):
    source, bundle = made("answerer")
    pair = pipeline("translation_en_to_de", bundle), transformers_pipeline("translation_en_to_de", str(source))
    assert_same(pair, "This is a test string", max_length=12)


@of_4
def test_translation_on_odd_language(made):
    source, bundle = made("answerer")
    pair = pipeline("translation_cn_to_ar", bundle), transformers_pipeline("translation_cn_to_ar", str(source))
    assert pair[0].task == "translation_cn_to_ar"
    assert_same(pair, "This is a test string", max_length=12)


def test_translation_default_language_selection(made):
    with pytest.warns(UserWarning, match="translation_en_to_de"):
        ours = pipeline("translation", made("answerer")[1])
    assert ours.task == "translation_en_to_de"
    assert ours.prefix == "good "


def test_translation_with_no_language_no_model_fails():
    with pytest.raises((InputError, TaskError)):
        pipeline("translation")


@of_4
def test_translation_multilingual(make_bundle):
    from helpers.generators import many_languages

    source, bundle = make_bundle("mbart", many_languages, precisions=["fp32"])
    ours = pipeline("translation", bundle)
    with pytest.raises(InputError, match="src_lang"):
        ours("this is a test")
    theirs = transformers_pipeline("translation", str(source))
    for target in ("de_DE", "fr_XX"):
        assert_same((ours, theirs), "this is a test", src_lang="en_XX", tgt_lang=target, max_new_tokens=8)


def test_every_pipeline_is_a_pipeline(made):
    assert isinstance(pipeline(model=made("classifier")[1]), Pipeline)
    assert AutoTokenizer.from_pretrained(made("classifier")[1]).is_fast
