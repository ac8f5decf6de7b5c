# Two commands for a newcomer, `make demo` and `make test`; both set up everything they need in .venv.
# PYTHON picks the interpreter (3.11 or newer): make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint types check clean

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

clean:
	rm -rf $(VENV)
