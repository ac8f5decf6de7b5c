# Two commands for a newcomer, `make demo` and `make test`; both set up everything they need in .venv.
# PYTHON picks the interpreter (3.11 or newer): make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# transformers 4 can not stand beside 5: it has an environment of its own, outside the tree. Its Python goes to
# `ropewalk verify --engine transformers4 --python`, and to the tests by ROPEWALK_TRANSFORMERS4_PYTHON.
VENV4 ?= $(HOME)/.cache/ropewalk/transformers4

.PHONY: demo test lint types check clean transformers4

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

# The exact versions of constraints.txt, then the package itself.
$(READY): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

transformers4: $(VENV4)/.ready
	@echo "export ROPEWALK_TRANSFORMERS4_PYTHON=$(VENV4)/bin/python"

$(VENV4)/.ready:
	$(PYTHON) -m venv $(VENV4)
	$(VENV4)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==4.57.6 safetensors==0.8.0
	touch $@

clean:
	rm -rf $(VENV)
