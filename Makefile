# Every target is what CI runs; `make` alone lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST_ARGS ?= -n 2 --dist loadgroup
BENCH ?= ingest

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long lint services bench build lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): requirements.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(STAMP) ## install everything into .venv

demo: setup ## the main job, on the embedded cloud: no account, no Docker
	@$(BIN)/snapengine demo

test: setup ## run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-long: setup ## the state machine at length: 200,000 steps
	SNAPENGINE_TEST_LONG=1 $(BIN)/python -m pytest -n 2 --timeout 7200 tests/stateful

lint: setup ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

services: setup ## fetch and start DynamoDB Local, ElasticMQ and SeaweedFS on free loopback ports
	@$(BIN)/python tools/services.py start

bench: setup ## run one benchmark: make bench BENCH=ingest
	$(BIN)/python -m benchmarks $(BENCH)

build: setup ## build the wheel and the sdist into dist/
	$(BIN)/python -m hatchling build

lock: setup ## pin the dependencies again
	$(BIN)/uv pip compile --quiet --no-emit-index-url --universal --python-version 3.11 --extra all --group dev --no-emit-package snapengine pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile --quiet --no-emit-index-url --universal --python-version 3.11 --extra torch --group torch --constraints requirements.txt --no-emit-package snapengine pyproject.toml -o requirements-torch.txt

clean: ## remove what the targets made
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .services
