"""Is it the same model? Comparison with PyTorch, gates and verdicts."""
