"""From a loaded PyTorch model to a graph of standard ONNX operators."""
