"""Servers that others have, for the comparison: each a script `python FILE PORT MODEL` that answers POST /predict."""
