"""The work of the commands: benchmark, tuning, diagnosis, verification, explanation. They print nothing."""
