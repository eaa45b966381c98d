"""What a request can be refused for, and the body that says so in each protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from untorch.errors import UntorchError

# Kind of refusal → status, Text Embeddings Inference's `error_type`, OpenAI's `type`.
_KINDS: dict[str, tuple[int, str, str]] = {
    "malformed": (400, "Validation", "invalid_request_error"),
    "empty": (400, "Empty", "invalid_request_error"),
    "key": (401, "Validation", "authentication_error"),
    "missing": (404, "Validation", "not_found_error"),
    "method": (405, "Validation", "invalid_request_error"),
    "slow": (408, "Validation", "timeout_error"),
    "large": (413, "Validation", "invalid_request_error"),
    "invalid": (422, "Validation", "invalid_request_error"),
    "tokenizer": (422, "Tokenizer", "invalid_request_error"),
    "cannot": (424, "Backend", "invalid_request_error"),
    "overloaded": (429, "Overloaded", "overloaded_error"),
    "failed": (500, "Backend", "server_error"),
    "unready": (503, "Unhealthy", "service_unavailable_error"),
    "late": (504, "Overloaded", "timeout_error"),
}


class RefusalError(UntorchError):
    """A request that gets no answer: `kind` decides the status, the message goes to the client.

    `field` is the part of the request at fault, `retry_after` the seconds after which to try again.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        field: str | None = None,
        retry_after: int | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.field = field
        self.retry_after = retry_after
        self.code = code
        self.status, self.tei_type, self.openai_type = _KINDS[kind]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers that go with the refusal."""
        headers = [] if self.retry_after is None else [(b"retry-after", b"%d" % self.retry_after)]
        return [*headers, (b"www-authenticate", b"Bearer")] if self.kind == "key" else headers


def tei(refusal: RefusalError) -> tuple[int, Mapping[str, Any]]:
    """Text Embeddings Inference's body, which Hugging Face's task clients read too."""
    return refusal.status, {"error": refusal.message, "error_type": refusal.tei_type}


def openai(refusal: RefusalError) -> tuple[int, Mapping[str, Any]]:
    """OpenAI's body. Beside it the fields that Text Embeddings Inference answers on OpenAI's route."""
    status = 400 if refusal.kind in ("invalid", "tokenizer", "cannot") else refusal.status
    inner = {"message": refusal.message, "type": refusal.openai_type, "param": refusal.field, "code": refusal.code}
    return status, {"error": inner, "message": refusal.message, "code": status, "type": refusal.tei_type}


def cohere(refusal: RefusalError) -> tuple[int, Mapping[str, Any]]:
    """Cohere's body (`message`), with Text Embeddings Inference's fields."""
    status, body = tei(refusal)
    return status, {"message": refusal.message, **body}


def kserve(refusal: RefusalError) -> tuple[int, Mapping[str, Any]]:
    """The Open Inference Protocol's body."""
    status = 400 if refusal.kind in ("invalid", "tokenizer", "empty", "cannot") else refusal.status
    return status, {"error": refusal.message}
