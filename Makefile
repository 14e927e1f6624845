# make demo   install, then train and test a small SparseViT on photographs that come with the install
# make test   install, then lint, types and tests
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST_WORKERS ?= 2

.PHONY: help venv demo test test-system test-long matrix docs lint clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# make/make/p' Makefile
	@echo "make test-system   tests that need a package index or a browser"
	@echo "make test-long     thousands of broken files and of cases for the metrics; every baseline at its card's size: hours on a CPU, many GiB"
	@echo "make matrix        tests on the oldest and newest libraries: an hour, a package index, 20 GB of disk"
	@echo "make docs          the documentation's site, in build/site"
	@echo "make lint          ruff and mypy"
	@echo "make venv          only the virtual environment, in $(VENV)"
	@echo "make clean         remove $(VENV) and every cache; runs/ stays"

venv: $(STAMP)

$(STAMP): setup.cfg pyproject.toml
	@echo "== venv: $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 10) <= v < (3, 13) and "Python 3.10 to 3.12 is needed, this is %d.%d: make PYTHON=/path/to/python3.11 ..." % v)'
	@start=$$(date +%s); \
	$(PYTHON) -m venv $(VENV) && \
	echo "== installing PyTorch and the rest: minutes" && \
	$(BIN)/python -m pip install --editable '.[test]' && \
	$(BIN)/python -m sparsevit_plugin env --fix && \
	touch $(STAMP) && \
	echo "== installed in $$(( $$(date +%s) - start )) s"

demo: $(STAMP)
	@echo "== demo: train, test and compare on the embedded photographs"
	$(BIN)/benco demo --out runs/demo

lint: $(STAMP)
	@echo "== lint: ruff, mypy"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	@echo "== tests"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not system and not zoo_full" -n $(PYTEST_WORKERS) --durations 10

test-system: $(STAMP)
	@echo "== system tests"
	$(BIN)/python -m pytest -m system -rs

test-long: $(STAMP)
	@echo "== long tests: metrics, broken files, the whole zoo"
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/metrics.py --cases 3000
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py --cases 250
	$(BIN)/python -m pytest -m zoo_full -n 0 --durations 0
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/timm_families.py --check results/backbones.csv

# MATRIX="--python 3.12=/path/to/python3.12" runs that Python too; what is done is not done again.
matrix: $(STAMP)
	@echo "== matrix: oldest and newest libraries, one environment at a time, in build/matrix"
	$(BIN)/python benchmarks/matrix.py $(MATRIX)

docs: $(STAMP)
	@echo "== docs: build/site, warnings are errors"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml

clean:
	@echo "== clean: $(VENV), build/, caches"
	rm -rf $(VENV) build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
