"""Calls a server with the clients that people have, each as its documentation says, and prints what it got as JSON.

    python clients.py NAME URL

It runs with the interpreter of an environment that has the clients (`make test-clients`), not with the tests' own.
"""

from __future__ import annotations

import json
import sys

TEXTS = ["I love this movie", "it was awful"]
PASSAGES = ["that film was awful", "the city lives", "a cool world"]
QUESTION = {"question": "who lives in it?", "context": "Good people live in the city and bad people do not."}
CHAT = [{"role": "user", "content": "hello people"}]


def failure(error):
    """An exception in words: its class, the status it carries, and its text."""
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    return {"error": type(error).__name__, "status": status, "text": str(error)}


def openai(url):
    """OpenAI's own client."""
    from openai import OpenAI, OpenAIError

    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    default = client.embeddings.create(model="emb", input=TEXTS)
    floats = client.embeddings.create(model="emb", input=TEXTS, encoding_format="float", dimensions=8)
    completion = client.completions.create(model="lm", prompt="hello people", max_tokens=8, temperature=0)
    chat = client.chat.completions.create(model="lm", messages=CHAT, max_tokens=8, temperature=0)
    pieces, usage = [], None
    for chunk in client.chat.completions.create(
        model="lm", messages=CHAT, max_tokens=8, temperature=0, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        pieces += [choice.delta.content or "" for choice in chunk.choices]
    found = {
        "models": [model.id for model in client.models.list()],
        "vectors": [record.embedding for record in default.data],
        "cut": [record.embedding for record in floats.data],
        "tokens": default.usage.prompt_tokens,
        "completion": completion.choices[0].text,
        "chat": chat.choices[0].message.content,
        "streamed": "".join(pieces),
        "usage": [chat.usage.total_tokens, usage.total_tokens],
        "errors": [],
    }
    for call in (
        lambda: client.embeddings.create(model="emb", input=[[1, 2]]),
        lambda: client.chat.completions.create(model="nobody", messages=[]),
        lambda: client.chat.completions.create(model="lm", messages=CHAT, frequency_penalty=1.0),
    ):
        try:
            call()
        except OpenAIError as error:
            found["errors"].append(failure(error))
    return found


def huggingface_hub(url):
    """Hugging Face's InferenceClient."""
    import huggingface_hub
    from huggingface_hub import InferenceClient

    def plain(value):
        if isinstance(value, list):
            return [plain(item) for item in value]
        if hasattr(value, "tolist"):
            return value.tolist()
        return (
            {key: item for key, item in vars(value).items() if item is not None}
            if hasattr(value, "__dict__")
            else value
        )

    def at(name):
        return InferenceClient(model=f"{url}/models/{name}", timeout=60)

    # A client that is gone takes its streams along.
    lm = at("lm")
    found = {
        "version": huggingface_hub.__version__,
        "classified": plain(at("sst").text_classification(TEXTS[0])),
        "entities": plain(at("ner").token_classification(QUESTION["context"], aggregation_strategy="simple")),
        "answer": plain(at("qa").question_answering(**QUESTION)),
        "filled": plain(at("mask").fill_mask("I love this [MASK]")),
        "zero_shot": plain(at("nli").zero_shot_classification(TEXTS[0], ["people", "film"])),
        "vectors": plain(at("emb").feature_extraction(TEXTS[0], normalize=True)),
        "similar": plain(at("emb").sentence_similarity(TEXTS[0], TEXTS[1:])),
        "summary": plain(at("sum").summarization(TEXTS[0], generate_parameters={"max_new_tokens": 8})),
        "written": lm.text_generation("hello people", max_new_tokens=8, do_sample=False),
        "streamed": "".join(lm.text_generation("hello people", max_new_tokens=8, do_sample=False, stream=True)),
        "detailed": lm.text_generation("hello people", max_new_tokens=8, do_sample=False, details=True).generated_text,
        "chat": lm.chat_completion(CHAT, max_tokens=8, temperature=0).choices[0].message.content,
        "chat_streamed": "".join(
            chunk.choices[0].delta.content or ""
            for chunk in lm.chat_completion(CHAT, max_tokens=8, temperature=0, stream=True)
            if chunk.choices
        ),
        "errors": [],
    }
    for call in (
        lambda: at("mask").fill_mask("no mask in it"),
        lambda: at("nobody").text_classification("a"),
    ):
        try:
            call()
        except Exception as error:
            found["errors"].append(failure(error))
    return found


def cohere(url):
    """Cohere's clients, of both versions of its interface."""
    import cohere as package

    second = package.ClientV2(api_key="none", base_url=url)
    ranked = second.rerank(model="rank", query=TEXTS[0], documents=PASSAGES, top_n=2)
    first = package.Client(api_key="none", base_url=url)
    with_text = first.rerank(model="rank", query=TEXTS[0], documents=PASSAGES, return_documents=True)
    found = {
        "second": [[row.index, row.relevance_score] for row in ranked.results],
        "first": [[row.index, row.relevance_score, row.document.text] for row in with_text.results],
        "errors": [],
    }
    try:
        second.rerank(model="rank", query="", documents=PASSAGES)
    except package.core.ApiError as error:
        found["errors"].append(failure(error))
    return found


def langchain_openai(url):
    """LangChain's OpenAI classes, told that this is not OpenAI."""
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(
        model="emb", base_url=f"{url}/v1", api_key="none", check_embedding_ctx_length=False, max_retries=0
    )
    chat = ChatOpenAI(model="lm", base_url=f"{url}/v1", api_key="none", max_tokens=8, temperature=0, max_retries=0)
    found = {
        "vectors": embeddings.embed_documents(TEXTS),
        "query": embeddings.embed_query(TEXTS[0]),
        "chat": chat.invoke([("user", "hello people")]).content,
        "streamed": "".join(piece.content for piece in chat.stream([("user", "hello people")])),
        "errors": [],
    }
    try:
        chat.invoke([("user", "good people " * 400)])
    except Exception as error:
        found["errors"].append(failure(error))
    return found


def llama_index(url):
    """LlamaIndex' classes for Text Embeddings Inference."""
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    embeddings = TextEmbeddingsInference(model_name="emb", base_url=url, query_instruction="", text_instruction="")
    rerank = TextEmbeddingInference(base_url=url, top_n=3)
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in PASSAGES]
    ranked = rerank.postprocess_nodes(nodes, query_str=TEXTS[0])
    return {
        "vectors": [embeddings.get_text_embedding(text) for text in TEXTS],
        "ranked": [[row.node.get_content(), row.score] for row in ranked],
    }


def haystack(url):
    """Haystack's components for Text Embeddings Inference."""
    from haystack.dataclasses import Document
    from haystack_integrations.components.embedders.huggingface_api import (
        HuggingFaceAPIDocumentEmbedder,
        HuggingFaceAPITextEmbedder,
    )
    from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker

    api = {"api_type": "text_embeddings_inference", "api_params": {"url": f"{url}/models/emb"}, "token": None}
    documents = [Document(content=text) for text in TEXTS]
    ranker = HuggingFaceTEIRanker(url=url, token=None)
    ranked = ranker.run(query=TEXTS[0], documents=[Document(content=text) for text in PASSAGES])["documents"]
    return {
        "query": HuggingFaceAPITextEmbedder(**api).run(text=TEXTS[0])["embedding"],
        "vectors": [
            document.embedding
            for document in HuggingFaceAPIDocumentEmbedder(**api).run(documents=documents)["documents"]
        ],
        "ranked": [[document.content, document.score] for document in ranked],
    }


def tritonclient(url):
    """Triton's HTTP client, with tensors in binary as it sends them unasked, and in JSON."""
    import numpy as np
    import tritonclient.http as package
    from tritonclient.utils import InferenceServerException

    client = package.InferenceServerClient(url.removeprefix("http://"))
    found = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready() and client.is_model_ready("sst"),
        "metadata": client.get_model_metadata("sst")["name"],
        "errors": [],
    }
    texts = np.array([text.encode() for text in TEXTS], dtype=np.object_)
    for binary in (True, False):
        tensor = package.InferInput("text", [len(TEXTS)], "BYTES")
        tensor.set_data_from_numpy(texts, binary_data=binary)
        wanted = [package.InferRequestedOutput(name, binary_data=binary) for name in ("label", "scores")]
        answer = client.infer("sst", [tensor], outputs=wanted)
        labels = [label.decode() if isinstance(label, bytes) else label for label in answer.as_numpy("label").tolist()]
        found["binary" if binary else "json"] = [labels, answer.as_numpy("scores").tolist()]
    tensor = package.InferInput("text", [2], "FP32")
    tensor.set_data_from_numpy(np.zeros(2, np.float32))
    try:
        client.infer("sst", [tensor])
    except InferenceServerException as error:
        found["errors"].append(failure(error))
    client.close()
    return found


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](sys.argv[2])))
