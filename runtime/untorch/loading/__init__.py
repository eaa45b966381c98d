"""From a bundle to running sessions: `choice.py` decides, `plans.py` remembers what was tuned, `sessions.py` opens."""
