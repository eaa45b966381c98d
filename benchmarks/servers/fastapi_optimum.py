"""FastAPI around Optimum's ONNX Runtime pipeline, one text a call, as its documentation shows."""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI
from optimum.onnxruntime import ORTModelForSequenceClassification
from pydantic import BaseModel
from transformers import AutoTokenizer, pipeline

PORT, MODEL = int(sys.argv[1]), sys.argv[2]
app = FastAPI()
model = ORTModelForSequenceClassification.from_pretrained(MODEL, subfolder="onnx", file_name="model.onnx")
classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(MODEL))


class Asked(BaseModel):
    """A request."""

    inputs: str


class Label(BaseModel):
    """A label with its score."""

    label: str
    score: float


@app.post("/predict")
def predict(asked: Asked) -> list[Label]:
    """All labels, the best first."""
    return [Label(**row) for row in classify(asked.inputs, top_k=None)]


uvicorn.run(app, port=PORT, log_level="warning")
