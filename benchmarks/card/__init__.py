"""The parts of `benchmarks/gpu.py`: models, engines, work and limits, measurements."""
