# Everything runs from a clone with Python 3.11 or newer and make. Another Python: make PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DIST ?= dist
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SPREAD := --numprocesses auto --dist worksteal # a process a core: most of the time goes to compiling kernels

.DEFAULT_GOAL := help
.PHONY: help demo test lint types check check-full bench docs wheel clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## install konv and compare the convolutions on a photograph, without PyTorch
	$(BIN)/konv compare

test: lint types  ## lint, types and the whole test suite: what a change must pass
	$(BIN)/python -m pytest $(SPREAD)

lint: $(VENV)/.dev  ## style and likely mistakes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## mypy, strict
	$(BIN)/mypy

check: lint types  ## lint, types and the quick tests: for every save
	$(BIN)/python -m pytest $(SPREAD) -m 'not slow'

check-full: lint types  ## as test, with every problem at its full size and more random ones
	$(BIN)/python -m pytest $(SPREAD) --whole

bench: $(VENV)/.bench  ## time konv and its peers on problems/article.txt; wants an idle machine
	$(BIN)/konv bench

docs: $(VENV)/.dev  ## run what the documents and the docstrings show, and check the rest of them
	$(BIN)/python -m pytest src tests/test_readme.py tests/architecture

wheel: $(VENV)/.dev  ## build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation --outdir $(DIST)

clean:  ## remove all that make has made, the virtual environment too
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: each says that its extra is installed, so that a second run installs nothing.

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit("konv needs Python 3.11 or newer: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) --editable '.[viz]'
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) --editable '.[dev]'
	@touch $(VENV)/.demo $@

$(VENV)/.bench: $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) --editable '.[bench,viz]'
	@touch $(VENV)/.demo $@
