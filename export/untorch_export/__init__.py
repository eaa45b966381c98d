"""From a PyTorch checkpoint to an untorch bundle. Build time only: it needs torch, transformers, optimum and onnx.

    from untorch_export.export import export
    export("distilbert-base-uncased-finetuned-sst-2-english", "bundle")

Nothing heavy is imported here, so that the command line can say what is missing where torch is not installed.
"""
