"""The tasks that can be exported. One task is one entry: its class, Optimum's name for it, and what its answer is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from untorch.errors import TaskError
from untorch_export.answers import CHOICE, HIDDEN, NEXT, ROW, SPAN, TOKEN, VECTOR, Answer


@dataclass(frozen=True)
class Task:
    """One task.

    `auto` is the class of transformers that loads it, `exporter` Optimum's name for it, `answer` the kind of answer
    that its outputs are. `heads` are the ends of the architecture names whose checkpoints have this head. `pairs` says
    that its texts come in pairs: a question and a context, a query and a passage.
    """

    name: str
    auto: str
    exporter: str
    answer: Answer
    outputs: tuple[str, ...]
    heads: tuple[str, ...] = ()
    pairs: bool = False

    @property
    def graph_outputs(self) -> tuple[str, ...]:
        """The outputs of the graph: the task's own and, where the kind of answer allows it, the last hidden states."""
        return self.outputs if self.bare or not self.answer.gives_states else (*self.outputs, HIDDEN)

    @property
    def bare(self) -> bool:
        """Whether the model has no head: its hidden states are what is asked for."""
        return HIDDEN in self.outputs


_SEQUENCE = "AutoModelForSequenceClassification"
_SEQ2SEQ = "AutoModelForSeq2SeqLM"

# Ranking and zero-shot checkpoints have the architecture of a classifier, so those tasks are for the user to name.
_ALL = (
    Task("text-classification", _SEQUENCE, "text-classification", ROW, ("logits",), ("ForSequenceClassification",)),
    Task("text-ranking", _SEQUENCE, "text-classification", ROW, ("logits",), pairs=True),
    Task("zero-shot-classification", _SEQUENCE, "text-classification", ROW, ("logits",)),
    # Before the bare models: GPT2LMHeadModel and MarianMTModel end like them.
    Task(
        name="text-generation",
        auto="AutoModelForCausalLM",
        exporter="text-generation",
        answer=NEXT,
        outputs=("logits",),
        heads=("ForCausalLM", "LMHeadModel"),
    ),
    Task(
        name="text2text-generation",
        auto=_SEQ2SEQ,
        exporter="text2text-generation",
        answer=NEXT,
        outputs=("logits",),
        heads=("ForConditionalGeneration", "MTModel"),
    ),
    Task("summarization", _SEQ2SEQ, "text2text-generation", NEXT, ("logits",)),
    Task("translation", _SEQ2SEQ, "text2text-generation", NEXT, ("logits",)),
    Task("feature-extraction", "AutoModel", "feature-extraction", VECTOR, (HIDDEN,), ("Model",)),
    Task("sentence-embeddings", "AutoModel", "feature-extraction", VECTOR, (HIDDEN,)),
    Task(
        name="token-classification",
        auto="AutoModelForTokenClassification",
        exporter="token-classification",
        answer=TOKEN,
        outputs=("logits",),
        heads=("ForTokenClassification",),
    ),
    Task(
        name="question-answering",
        auto="AutoModelForQuestionAnswering",
        exporter="question-answering",
        answer=SPAN,
        outputs=("start_logits", "end_logits"),
        heads=("ForQuestionAnswering",),
        pairs=True,
    ),
    Task("fill-mask", "AutoModelForMaskedLM", "fill-mask", TOKEN, ("logits",), ("ForMaskedLM",)),
    Task(
        name="multiple-choice",
        auto="AutoModelForMultipleChoice",
        exporter="multiple-choice",
        answer=CHOICE,
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
    for an architecture whose head has no task here, and for other classes of sentence-transformers.
    """
    if sentence_transformer is not None:
        if sentence_transformer not in _SENTENCE_TRANSFORMERS:
            raise TaskError(
                f"the folder is a {sentence_transformer} of sentence-transformers, which untorch cannot run; "
                "to export the transformer in it without what that library adds, name its task with --task"
            )
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
