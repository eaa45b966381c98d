"""The same work through every engine, one process each, side by side. `make bench` runs it all."""
