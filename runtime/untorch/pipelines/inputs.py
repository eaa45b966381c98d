"""What a call is given: one input, several, or a stream of them. And what one input is.

Nothing else in the pipelines decides this. Two texts are a pair only where a mapping says so, or in transformers' older
spelling `[["first", "second"]]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from untorch.errors import InputError

Kind = Literal["one", "several", "stream"]


class Chat:
    """The messages of one chat. As a list they would be taken for several inputs."""

    def __init__(self, messages: Sequence[Mapping[str, Any]]) -> None:
        for message in messages:
            if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
                raise InputError('a chat is a list of messages {"role": …, "content": …}')
        self.messages = list(messages)

    @property
    def ends_with_assistant(self) -> bool:
        """Whether the last message is the model's own, which is then continued."""
        return bool(self.messages and self.messages[-1]["role"] == "assistant")


def sort(inputs: Any) -> tuple[Kind, Any]:
    """What `inputs` are, and the inputs themselves: one, a list, or an iterator.

    A text or a mapping is one input. Lists, tuples, and what has `tolist` or `to_pylist` (numpy arrays, Series of
    pandas, columns of Arrow) are several. Iterators, what has `__len__` and `__getitem__` (a dataset) and any other
    iterable are streams. What is none of these is one input, for the task to refuse. Raises InputError for tables
    and for arrays of more than one axis.
    """
    if isinstance(inputs, (str, bytes, Mapping, Chat)):
        return "one", inputs
    if isinstance(inputs, (list, tuple)):
        return "several", list(inputs)
    if hasattr(inputs, "columns"):
        raise InputError(f'a {type(inputs).__name__} is a table; pass the column of the texts: table["text"]')
    if (to_list := getattr(inputs, "tolist", None) or getattr(inputs, "to_pylist", None)) is not None:
        return _array(inputs, to_list())
    if hasattr(inputs, "__next__"):
        return "stream", inputs
    if hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"):
        return "stream", _items(inputs)
    if hasattr(inputs, "__iter__"):
        return "stream", iter(inputs)
    return "one", inputs


def _array(array: Any, values: Any) -> tuple[Kind, Any]:
    if getattr(array, "ndim", 1) > 1:
        raise InputError(f"an array of texts has one axis; this one has the shape {tuple(array.shape)}")
    return ("several", values) if isinstance(values, list) else ("one", values)


def _items(dataset: Any) -> Iterator[Any]:
    """The items of a dataset by their number: iterating over one may give something else, or never end."""
    return (dataset[number] for number in range(len(dataset)))


def chat_or_text(item: Any) -> Any:
    """A prompt: a list of messages is a chat."""
    return Chat(item) if isinstance(item, (list, tuple)) else item


def prompts(inputs: Any) -> tuple[Kind, Any]:
    """The same as `sort` for prompts, where a list of messages is one chat."""
    if isinstance(inputs, (list, tuple)) and inputs and isinstance(inputs[0], Mapping):
        return "one", Chat(inputs)
    kind, given = sort(inputs)
    if kind == "several":
        return kind, list(map(chat_or_text, given))
    return kind, map(chat_or_text, given) if kind == "stream" else given


def split_texts(inputs: Any) -> tuple[Kind, Any]:
    """The same as `sort` for texts that are lists of words: a list of words is several inputs of one text."""
    kind, given = sort(inputs)
    if kind == "several" and not all(isinstance(item, (list, tuple)) for item in given):
        return kind, [given]  # transformers, too, answers one text with a list of one
    return kind, given


def pairs(items: Sequence[Any]) -> tuple[list[str], list[str | None] | None]:
    """The texts of inputs and their second texts (None: it has none); None for all of these where no input has one."""
    if set(map(type, items)) == {str}:
        return list(items), None
    split = [_pair(item, f"input {number}") for number, item in enumerate(items)]
    seconds = [second for _, second in split]
    return [first for first, _ in split], seconds if any(second is not None for second in seconds) else None


def _pair(item: Any, name: str) -> tuple[str, str | None]:
    if isinstance(item, Mapping):
        if "text" not in item or set(item) - {"text", "text_pair"}:
            raise InputError(
                f'a pair is {{"text": …, "text_pair": …}}; {name} has the keys {", ".join(map(str, item))}'
            )
        # An empty second text is none, as in transformers' tokenizers.
        second = item.get("text_pair")
        return text(item["text"], f"text of {name}"), text(second, f"text_pair of {name}") if second else None
    # An old spelling of a pair that transformers still takes: [["first", "second"]].
    if isinstance(item, list) and len(item) == 1 and isinstance(item[0], list) and len(item[0]) == 2:
        return text(item[0][0], f"the first text of {name}"), text(item[0][1], f"the second text of {name}")
    if isinstance(item, (list, tuple)):
        raise InputError(
            f"{name} is a {type(item).__name__}, not a text; "
            'a pair of texts is {"text": "first", "text_pair": "second"}'
        )
    return text(item, name), None


def text(item: Any, what: str = "an input") -> str:
    """A text. Raises InputError for anything else."""
    if not isinstance(item, str):
        raise InputError(f"{what} is {type(item).__name__}, not a text (str)")
    return item


def texts(items: Iterable[Any]) -> list[str]:
    """Texts, each one input. Raises InputError, naming the first that is none by its number."""
    return [text(item, f"input {number}") for number, item in enumerate(items)]


def fields(item: Any, names: Sequence[str], what: str, optional: Sequence[str] = ()) -> list[Any]:
    """The values of a mapping that has these names, and None for `optional` ones that it lacks.

    Raises InputError for an input that is no such mapping; `what` is how the message describes one.
    """
    if not isinstance(item, Mapping) or not {*names} <= item.keys() <= {*names, *optional}:
        got = f"the keys {', '.join(map(str, item))}" if isinstance(item, Mapping) else type(item).__name__
        raise InputError(f"{what}; got {got}")
    return [item.get(name) for name in (*names, *optional)]


def contained(item: Any) -> Iterator[str]:
    """All texts in one input, whatever its task's form. Raises InputError for an input that holds something else."""
    if isinstance(item, Chat):
        item = item.messages
    if isinstance(item, Mapping):
        item = [value for value in item.values() if value is not None]
    if isinstance(item, (list, tuple)):
        for part in item:
            yield from contained(part)
    else:
        yield text(item)
