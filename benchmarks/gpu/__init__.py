"""The parts of `benchmarks/gpu`: models, engines, work and limits, measurements."""
