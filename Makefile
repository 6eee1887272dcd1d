# Two commands: `make demo` shows the whole loop, `make test` runs every test.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory --no-builtin-rules
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CONSTRAINTS := deploy/constraints.txt
REVIEW := .venv-label-studio/.installed
RUN := .venv/.installed-run
DEV := .venv/.installed-dev
# Everything an install says goes to stderr, so that stdout ends with a command's own result.
SAYS := 1>&2
QUIETER := sed -u -E '/^(Requirement|Looking|Processing|WARNING: Location|  )/d; s/^(.{88}).{9,}/\1 …/; s/^/[factory] /'

.PHONY: help demo up test test-faults test-gpu lint format bench bench-gpu bench-dashboard study clean \
	install install-dev chromium

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo:  ## Install all, run the whole loop once on this machine, print its report
	@start=$$SECONDS; $(MAKE) -j2 install; export FACTORY_INSTALL_SECONDS=$$((SECONDS - start)); \
	exec $(BIN)/factory demo

up: ; @$(MAKE) -j2 install && exec $(BIN)/factory up  ## Start the factory and keep it up

test:  ## Install what the tests need and run them all
	@$(MAKE) -j2 install-dev && exec $(BIN)/python -m pytest -n logical --maxprocesses 4 --no-loadscope-reorder

test-faults: $(DEV)  ## Harm a running factory hundreds of times, count what is lost (up to an hour)
	@exec $(BIN)/python -m tests.faults

test-gpu: $(DEV)  ## What needs a CUDA device: the kernel, graphs, bf16, memory that runs out
	@exec $(BIN)/python -m pytest --confcutdir=tests/gpu tests/gpu

lint: $(DEV)  ## Linters, types and layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

format: $(DEV)  ## Put the code in shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(DEV)  ## Speed of the engine beside its baselines, on this machine
	@exec $(BIN)/python tests/benchmarks/steer_speed.py

bench-dashboard: $(DEV)  ## Server time of every page with a million samples in the database
	@exec $(BIN)/python -m tests.benchmarks.dashboard_speed

bench-gpu: $(RUN)  ## Speed of the engine on a CUDA device, at Llama's 1B and 7B shapes (under 8 minutes)
	@exec $(BIN)/python tests/benchmarks/gpu_steer.py

study: $(DEV)  ## Compare rules and feedback levers where every sample can be judged (an hour or more)
	@exec $(BIN)/python -m tests.benchmarks.study

clean:  ## Remove the virtual environments; data in .factory stays
	@rm -rf .venv .venv-label-studio

install: $(RUN) $(REVIEW)

install-dev: $(DEV) $(REVIEW) chromium

.venv/bin/python:
	@echo "[factory] making .venv (the first install takes a few minutes)" $(SAYS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@$(PYTHON) -m venv .venv

# torch first and by pip: resolved together with the rest it would bring other builds along.
.venv/.torch: $(CONSTRAINTS) | .venv/bin/python
	@$(PIP) install -c $(CONSTRAINTS) torch 2>&1 | $(QUIETER) $(SAYS)
	@touch $@

$(RUN): pyproject.toml $(CONSTRAINTS) .venv/.torch
	@$(PIP) install -c $(CONSTRAINTS) -e '.[gpu,local]' 2>&1 | $(QUIETER) $(SAYS)
	@touch $@

$(DEV): $(RUN)
	@$(PIP) install -c $(CONSTRAINTS) -e '.[dev]' 2>&1 | $(QUIETER) $(SAYS)
	@touch $@

$(REVIEW): deploy/label-studio-constraints.txt
	@$(PYTHON) -m venv .venv-label-studio
	@.venv-label-studio/bin/python -m pip --disable-pip-version-check install \
		-c deploy/label-studio-constraints.txt label-studio 2>&1 | $(QUIETER) $(SAYS)
	@touch $@

chromium:
	@command -v chromium >/dev/null || { \
		echo "[factory] installing Chromium for the browser tests" $(SAYS); \
		sudo=$$( [ "$$(id -u)" = 0 ] || echo sudo ); \
		$$sudo apt-get update -qq $(SAYS) && $$sudo apt-get install -y -qq chromium $(SAYS); }
