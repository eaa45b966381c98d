"""LitServe around transformers' pipeline, with its dynamic batching."""

import sys
from typing import Any

import litserve
from transformers import pipeline

PORT, MODEL = int(sys.argv[1]), sys.argv[2]


class Classifier(litserve.LitAPI):
    """Texts in, labels out."""

    def setup(self, device: str) -> None:  # noqa: ARG002  # LitServe passes it
        """Load the model."""
        self.classify = pipeline("text-classification", model=MODEL, device="cpu")

    def decode_request(self, request: dict):
        """The text of a request."""
        return str(request["inputs"])

    def predict(self, texts: list[str]) -> list[Any]:
        """The labels of a batch."""
        found: list[Any] = self.classify(list(texts), top_k=None, batch_size=len(texts))
        return found

    def encode_response(self, output: Any) -> Any:
        """The answer as it is."""
        return output


if __name__ == "__main__":
    api = Classifier(max_batch_size=16, batch_timeout=0.0)
    litserve.LitServer(api, accelerator="cpu").run(port=PORT, generate_client_file=False, log_level="warning")
