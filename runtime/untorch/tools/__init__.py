"""What the commands call: benchmark, tuning, diagnosis, verification, explanation."""
