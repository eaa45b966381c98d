"""ONNX Runtime: sessions, execution providers, devices. It knows no bundle and no text."""
