# The two commands of the README are `make distill` and `make test`; all else is for developers.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: help install distill test lint check format clean
help:
	@echo "make install   create .venv and install everything for users and tests"
	@echo "make distill   install, then run the main job on the embedded data"
	@echo "make test      install, then run the tests"
	@echo "make lint      ruff, mypy --strict, import-linter, the examples in the docs"
	@echo "make check     what CI runs: test and lint"
	@echo "make bench-N   run benchmarks/N.py and write benchmarks/results/N.json"

install: $(VENV)/.installed

# torch and torchvision first and together, so that the resolver takes matching releases.
$(VENV)/.installed: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "limbeck needs Python 3.11 or newer; $(PYTHON) was not found (make PYTHON=python3.12 install)"; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch torchvision
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch $@

distill: install
	$(BIN)/limbeck distill

test: install
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q --doctest-modules src/limbeck
	$(BIN)/python benchmarks/tables.py --check

check: test lint

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-%: install
	$(BIN)/python benchmarks/$*.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
