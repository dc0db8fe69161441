# make demo   set everything up and rerank real text with the bundled model
# make test   set everything up and run the tests
# make lint   style, types
# make format rewrite the code in the project's style

PYTHON ?= python3
VENV := .venv
# FlagEmbedding needs an older transformers than sentence-transformers: an environment of its own.
FLAG_VENV := .venv-flagembedding
BIN := $(VENV)/bin
PIP := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	@$(BIN)/crossrank demo

test: $(VENV)/.dev $(FLAG_VENV)/.ready
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(FLAG_VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# What the C++ module is built from: a change builds it anew.
NATIVE := CMakeLists.txt $(wildcard native/*)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt $(NATIVE)
	@echo "Setting up $(VENV); the first time takes a few minutes."
	@$(BIN)/python $(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt $(NATIVE)
	@echo "Setting up $(VENV) for development."
	@$(BIN)/python $(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.demo

$(FLAG_VENV)/.ready: tests/parity/requirements-flagembedding.txt constraints.txt
	@echo "Setting up $(FLAG_VENV), for the parity tests."
	@$(PYTHON) -m venv $(FLAG_VENV)
	@$(FLAG_VENV)/bin/python $(PIP) --requirement tests/parity/requirements-flagembedding.txt
	@touch $@
