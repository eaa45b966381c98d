"""The tasks that can be exported. One task is one entry: its class, Optimum's name for it, and what its answer is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from untorch.errors import TaskError

# What an answer is, and so what "the same answer" means:
#   row     logits (batch, labels): one label a row
#   token   logits (batch, sequence, labels): one label a token
#   span    start_logits and end_logits (batch, sequence): one position a row in each
#   vector  last_hidden_state (batch, sequence, hidden): a direction, not a label
#   choice  logits (batch, choices), of input_ids (batch, choices, sequence): one choice a row
#   next    logits (batch, sequence, vocabulary): the token that follows, with a cache of what was read
Answer = Literal["row", "token", "span", "vector", "choice", "next"]

HIDDEN = "last_hidden_state"


@dataclass(frozen=True)
class Task:
    """One task. `heads` are the ends of the architecture names whose checkpoints have this head."""

    name: str
    auto: str
    exporter: str
    answer: Answer
    outputs: tuple[str, ...]
    heads: tuple[str, ...] = ()

    @property
    def graph_outputs(self) -> tuple[str, ...]:
        """A head's graph also gives the hidden states, so that `AutoModel` works on every bundle.

        Choices are the exception: their graph's inputs have an axis more than `AutoModel` has.
        """
        return self.outputs if HIDDEN in self.outputs or self.answer == "choice" else (*self.outputs, HIDDEN)

    @property
    def reads_pairs(self) -> bool:
        """Whether its texts come in pairs: a question and a context, a query and a passage."""
        return self.answer == "span" or self.name == "text-ranking"

    def per_token(self, output: str) -> bool:
        """Whether an output has a value for every position (batch, sequence, …), those of padding included."""
        return output == HIDDEN or self.answer not in ("row", "choice")


_SEQUENCE = "AutoModelForSequenceClassification"
_SEQ2SEQ = "AutoModelForSeq2SeqLM"

# Ranking and zero-shot checkpoints have the architecture of a classifier, so those tasks are for the user to name.
_ALL = (
    Task("text-classification", _SEQUENCE, "text-classification", "row", ("logits",), ("ForSequenceClassification",)),
    Task("text-ranking", _SEQUENCE, "text-classification", "row", ("logits",)),
    Task("zero-shot-classification", _SEQUENCE, "text-classification", "row", ("logits",)),
    # Before the bare models: GPT2LMHeadModel and MarianMTModel end like them.
    Task(
        name="text-generation",
        auto="AutoModelForCausalLM",
        exporter="text-generation",
        answer="next",
        outputs=("logits",),
        heads=("ForCausalLM", "LMHeadModel"),
    ),
    Task(
        name="text2text-generation",
        auto=_SEQ2SEQ,
        exporter="text2text-generation",
        answer="next",
        outputs=("logits",),
        heads=("ForConditionalGeneration", "MTModel"),
    ),
    Task("summarization", _SEQ2SEQ, "text2text-generation", "next", ("logits",)),
    Task("translation", _SEQ2SEQ, "text2text-generation", "next", ("logits",)),
    Task("feature-extraction", "AutoModel", "feature-extraction", "vector", (HIDDEN,), ("Model",)),
    Task("sentence-embeddings", "AutoModel", "feature-extraction", "vector", (HIDDEN,)),
    Task(
        name="token-classification",
        auto="AutoModelForTokenClassification",
        exporter="token-classification",
        answer="token",
        outputs=("logits",),
        heads=("ForTokenClassification",),
    ),
    Task(
        name="question-answering",
        auto="AutoModelForQuestionAnswering",
        exporter="question-answering",
        answer="span",
        outputs=("start_logits", "end_logits"),
        heads=("ForQuestionAnswering",),
    ),
    Task("fill-mask", "AutoModelForMaskedLM", "fill-mask", "token", ("logits",), ("ForMaskedLM",)),
    Task(
        name="multiple-choice",
        auto="AutoModelForMultipleChoice",
        exporter="multiple-choice",
        answer="choice",
        outputs=("logits",),
        heads=("ForMultipleChoice",),
    ),
)
TASKS: dict[str, Task] = {task.name: task for task in _ALL}

# What sentence-transformers saves, by its class → its task.
_SENTENCE_TRANSFORMERS = {"SentenceTransformer": "sentence-embeddings", "CrossEncoder": "text-ranking"}

ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}


def named(name: str) -> Task:
    """The task of that name or alias. Raises TaskError, listing the names there are."""
    try:
        return TASKS[ALIASES.get(name, name)]
    except KeyError:
        raise TaskError(f"untorch export knows no task {name!r}; it knows {', '.join(TASKS)}") from None


def infer(config: dict[str, Any], *, sentence_transformer: str | None) -> Task:
    """The task of a checkpoint, from `config.json` and, in a sentence-transformers folder, the class that saved it.

    A config that names no architecture is a bare model, as `AutoModel.from_config` makes it. Raises TaskError
    for an architecture whose head has no task here.
    """
    if sentence_transformer in _SENTENCE_TRANSFORMERS:
        return TASKS[_SENTENCE_TRANSFORMERS[sentence_transformer]]
    architectures = config.get("architectures") or []
    if not architectures:
        return TASKS["feature-extraction"]
    for task in TASKS.values():
        if str(architectures[0]).endswith(task.heads or ("\0",)):
            return task
    raise TaskError(
        f"config.json names the architecture {architectures[0]}, whose task untorch export does not know; "
        f"choose one with --task: {', '.join(TASKS)}"
    )
