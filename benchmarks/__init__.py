"""Measures untorch and other engines on the same work, each in a process of its own. `make bench` runs it all."""
