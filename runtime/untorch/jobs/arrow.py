"""pyarrow, or what to install; and what a column of text is."""

from __future__ import annotations

from untorch.errors import DependencyError

try:
    import pyarrow as pa
except ImportError as error:
    raise DependencyError("this needs pyarrow: pip install 'untorch[jobs]'") from error

__all__ = ["is_list", "is_text", "pa"]


def is_text(kind: pa.DataType) -> bool:
    """Whether a type's values are texts. A column of nulls alone has the type null, and is as good as text."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether a type's values are lists, of whatever length."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
