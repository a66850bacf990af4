# The two commands of the README are `make distill` and `make test`; all else is for developers.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: help install develop distill gpu test lint check format clean
help:
	@echo "make install   create .venv and install limbeck with what it needs"
	@echo "make develop   install, with all extras and the tools of developers"
	@echo "make distill   install, then run the main job on the embedded data"
	@echo "make gpu       install, then check the paths of a GPU, in at most 8 minutes; does nothing without one"
	@echo "make test      install for developers, then run the tests"
	@echo "make lint      ruff, mypy --strict, import-linter, the examples in the docs"
	@echo "make check     what CI runs: test and lint"
	@echo "make bench-N   run benchmarks/N.py and write benchmarks/results/N.json"

install: $(VENV)/.installed

develop: $(VENV)/.developed

$(VENV)/.installed: pyproject.toml tools/install.sh
	@tools/install.sh $(PYTHON) $(VENV)
	@touch $@

$(VENV)/.developed: pyproject.toml tools/install.sh
	@tools/install.sh $(PYTHON) $(VENV) '[dev]'
	@touch $(VENV)/.installed $@

distill: install
	$(BIN)/limbeck distill

gpu: install
	$(BIN)/python benchmarks/gpu.py

test: develop
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder

lint: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n $(WORKERS) --doctest-modules src/limbeck
	$(BIN)/python benchmarks/tables.py --check

check: test lint

format: develop
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-%: develop
	$(BIN)/python benchmarks/$*.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
