"""One graph rewriter, and the passes on top of it."""
