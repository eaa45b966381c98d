# Needs Python 3.11 or newer and make; everything else is installed into environments of its own.
PYTHON ?= python3

.PHONY: demo test lint fuzz clean

# The runtime alone: no torch. Classifies two sentences with the embedded default model.
demo: .venv-demo/.installed
	.venv-demo/bin/untorch run \
		"I've been waiting for a HuggingFace course my whole life." "I hate this so much!"

test: .venv/.installed
	HF_HUB_OFFLINE=1 .venv/bin/python -m pytest

lint: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

.venv-demo/.installed: pyproject.toml constraints.txt $(wildcard models/*/pyproject.toml)
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install --quiet -c constraints.txt ".[cpu]" ./models/untorch-minilm-sst2
	touch .venv-demo/.installed

# The embedded model comes last: it needs the build backend that `dev` brought.
.venv/.installed: pyproject.toml constraints.txt $(wildcard models/*/pyproject.toml)
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[dev]" -e ./models/untorch-minilm-sst2
	touch .venv/.installed

clean:
	rm -rf .venv .venv-demo dist build
