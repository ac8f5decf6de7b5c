# Two commands for a newcomer, `make demo` and `make test`; both set up everything they need in .venv.
# PYTHON picks the interpreter (3.11 or newer): make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Engines that serve models, for the tests marked `engine`. Each has an environment of its own outside the tree (transformers
# 4 can not stand beside 5), so that it outlives a checkout; VENV4 and its like choose another place.
ENGINE_CACHE ?= $(HOME)/.cache/ropewalk
VENV4 ?= $(ENGINE_CACHE)/transformers4
VENV_LLAMA ?= $(ENGINE_CACHE)/llama-cpp
VENV_VLLM ?= $(ENGINE_CACHE)/vllm
ENGINE_WHEELS ?= $(ENGINE_CACHE)/wheels
TRANSFORMERS4 := 4.57.6
LLAMA_CPP := 0.3.36
VLLM := 0.33.0
READY4 := $(VENV4)/.ready-$(TRANSFORMERS4)
READY_LLAMA := $(VENV_LLAMA)/.ready-$(LLAMA_CPP)
READY_VLLM := $(VENV_VLLM)/.ready-$(VLLM)
PIP_INSTALL := pip install --quiet --disable-pip-version-check

# Those that `make engines` tests: make engines ENGINES=transformers4
ENGINES ?= transformers4 llama-cpp vllm

.PHONY: demo test cluster lint types check clean engines transformers4 llama-cpp vllm

demo: $(READY)
	$(BIN)/ropewalk demo --out runs/demo

# One thread a worker: two that spin for the same core cost more than they give.
test: export OMP_NUM_THREADS = 1
test: $(READY)
	$(BIN)/pytest -q -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(READY)
	$(BIN)/mypy

check: lint types

# The tests that need Ray (250 MB), which `make test` skips until this has installed it.
cluster: export OMP_NUM_THREADS = 1
cluster: $(READY)
	$(BIN)/$(PIP_INSTALL) -c constraints.txt -e '.[cluster]'
	$(BIN)/pytest -q tests/search/test_ray_workers.py

# The exact versions of constraints.txt, then the package itself.
$(READY): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

# Where an engine is not among ENGINES, its variable is not set and its tests are skipped.
engines: export OMP_NUM_THREADS = 1
engines: $(READY) $(ENGINES)
	env $(foreach engine,$(ENGINES),$(VARIABLES_$(engine))) $(BIN)/pytest -q -n 2 --dist worksteal -m engine

VARIABLES_transformers4 := ROPEWALK_TRANSFORMERS4_PYTHON=$(VENV4)/bin/python
VARIABLES_llama-cpp := ROPEWALK_LLAMA_CPP_PYTHON=$(VENV_LLAMA)/bin/python
VARIABLES_vllm := ROPEWALK_VLLM_SOURCE=$(VENV_VLLM)/vllm-$(VLLM) ROPEWALK_VLLM_PYTHON=$(VENV_VLLM)/bin/python

transformers4: $(READY4)
llama-cpp: $(READY_LLAMA)
vllm: $(READY_VLLM)
transformers4 llama-cpp vllm:
	@echo "export $(VARIABLES_$@)"

$(READY4):
	$(PYTHON) -m venv $(VENV4)
	$(VENV4)/bin/$(PIP_INSTALL) torch==2.13.0 transformers==$(TRANSFORMERS4) safetensors==0.8.0
	touch $@

# llama.cpp is compiled, which takes two cores half an hour, for any x86-64 with AVX2: a wheel for this very processor
# would not run on the next.
$(READY_LLAMA):
	$(PYTHON) -m venv $(VENV_LLAMA)
	$(if $(wildcard $(ENGINE_WHEELS)/llama_cpp_python-$(LLAMA_CPP)-*.whl),,CMAKE_ARGS=-DGGML_NATIVE=OFF \
	    $(VENV_LLAMA)/bin/pip wheel --quiet --no-deps --wheel-dir $(ENGINE_WHEELS) llama-cpp-python==$(LLAMA_CPP))
	$(VENV_LLAMA)/bin/$(PIP_INSTALL) --find-links $(ENGINE_WHEELS) --only-binary llama-cpp-python \
	    'llama-cpp-python[server]==$(LLAMA_CPP)' safetensors==0.8.0
	touch $@

# vLLM's own Python files and what they import; nothing of it is compiled.
$(READY_VLLM):
	$(PYTHON) -m venv $(VENV_VLLM)
	$(VENV_VLLM)/bin/python scripts/fetch_vllm_source.py $(VLLM) --into $(VENV_VLLM)
	$(VENV_VLLM)/bin/$(PIP_INSTALL) torch==2.13.0 -r $(VENV_VLLM)/vllm-$(VLLM)/requirements/common.txt
	touch $@

clean:
	rm -rf $(VENV)
