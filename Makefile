# `make` lists the commands. They need Linux x86-64, Python 3.11 or newer, and nothing else.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help up test check lint format types walls bench acceptance requirements clean install install-dev
ARGS ?=

# The first Python that is new enough; PYTHON=… says another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
BIN := .venv/bin
PIN := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make requirements"

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r name text; do printf '%-22s %s\n' "$$name" "$$text"; done

up: install ## run the whole platform on this machine; Ctrl-C stops it
	@exec $(BIN)/python -m smcp.stack

test: install-dev ## run the whole test suite (ARGS="tests/edge -k …" for a part of it)
	@$(BIN)/python -m tests.checks test $(ARGS)

check: install-dev ## what has to pass before a change goes in
	@$(BIN)/python -m tests.checks all

lint: install-dev ## ruff: rules and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: install-dev ## let ruff mend what it can
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

types: install-dev ## mypy, strict
	@$(BIN)/mypy .

walls: install-dev ## which room may import which
	@$(BIN)/lint-imports

bench: install-dev ## measure, and print one table (also var/bench.json)
	@$(BIN)/python -m tests.bench

acceptance: install-dev ## list the rows of docs/acceptance.md no test proves
	@$(BIN)/python -m tests.acceptance

requirements: install-dev ## pin requirements*.in again (ARGS=--upgrade: to the newest versions)
	@$(PIN) $(ARGS) requirements.in -o requirements.txt
	@$(PIN) $(ARGS) requirements-dev.in -o requirements-dev.txt
	@$(PIN) $(ARGS) tests/python/mcp-1.in -o tests/python/mcp-1.txt
	@$(PIN) $(ARGS) tests/python/fastmcp.in -o tests/python/fastmcp.txt

clean: ## remove everything installed or built; data in var/ stays
	rm -rf .venv edge/node_modules tests/node/node_modules tests/python/.venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

install: python
	@$(PYTHON) -m smcp.stack.install

install-dev: python
	@$(PYTHON) -m smcp.stack.install --dev

.PHONY: python
python:
	@test -n "$(PYTHON)" || { echo "SMCP needs Python 3.11 or newer, and there is none on this machine's PATH." >&2; exit 1; }
