"""8-bit weights and activations: calibration, rounding, products."""
