# Everything a developer types. Needs Python 3.11 or newer, pip, make and git; the rest is installed into .venv.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
WORKERS ?= 2
BENCHES ?= $(shell grep -l __main__ benchmarks/*.py)

# One environment, filled in two steps, so that the demo does not wait for the tools of the tests.
# Each stamp is older than what it was made from exactly when the step has to be repeated.
DEMO_READY := $(VENV)/demo.stamp
DEV_READY := $(VENV)/dev.stamp
DOCS_READY := $(VENV)/docs.stamp

.PHONY: help
help: ## List the targets.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 14

# One thread: the network is so small that threads would spend their time waiting for each other.
.PHONY: demo
demo: $(DEMO_READY) ## Train LeNet-5 on the digits, compress it to 1 %, write the artifact and a report to runs/demo.
	OMP_NUM_THREADS=1 $(BIN)/spectrim compress lenet5 --data digits --method frequency-regularization --keep 0.01 \
		--seed 0 --out runs/demo --overwrite

.PHONY: test
test: lint ## Lint, check types, run all tests (doctests of src included; ARGS="-k spectral" for some).
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(ARGS)

.PHONY: check
check: lint ## Lint, formatting, types, and the direction of the imports: less than a minute.
	$(BIN)/python -m pytest -q tests/test_architecture.py

.PHONY: lint
lint: $(DEV_READY) ## Lint, formatting, types.
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy --no-error-summary

.PHONY: bench
bench: $(DEV_READY) ## Measure (hours; BENCHES=FILE for one), write benchmarks/results/*.json and the tables made from them.
	@failed=; for script in $(BENCHES); do \
		echo "== $$script"; $(BIN)/python $$script || failed="$$failed $$script"; \
	done; \
	$(BIN)/python tools/tables.py; \
	test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

.PHONY: docs
docs: $(DOCS_READY) ## Build the documentation into docs/_build/html; a warning is an error.
	$(BIN)/python tools/tables.py
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

.PHONY: clean
clean: ## Remove the environment, the caches and what runs left behind.
	rm -rf $(VENV) docs/_build dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis runs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 found. Pass one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# torch first and alone: nothing that follows may pull in another build of it.
$(DEMO_READY): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) torch
	$(PIP) --editable '.[train,report]'
	touch $@

# torchvision without its dependencies, and the helper that lets its CUDA wheel load beside a CPU build of torch.
$(DEV_READY): $(DEMO_READY) tools/torchvision_cpu.py
	$(PIP) --no-deps torchvision
	$(BIN)/python tools/torchvision_cpu.py
	$(PIP) --editable '.[dev]'
	touch $@

$(DOCS_READY): $(DEV_READY)
	$(PIP) --editable '.[docs]'
	touch $@
