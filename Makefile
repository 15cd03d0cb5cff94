# `make run` and `make test` are all a newcomer needs; both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help run test test-fast faults ray chaos bench simulate check coverage audit lint imports format types clean
.DEFAULT_GOAL := help

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

run: $(VENV)/run.stamp  ## set up, start everything on this machine, print the address
	@$(BIN)/python spyglass/local/__main__.py

test: $(VENV)/dev.stamp  ## run the tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile  # most of them wait rather than compute

test-fast: $(VENV)/dev.stamp  ## run the tests that open no socket and load no model
	$(BIN)/python -m pytest -q tests/unit/protocol tests/unit/dispatcher

faults: $(VENV)/dev.stamp  ## run the slow tests of faults: partitions, floods, chaos
	$(BIN)/python -m pytest -q -m slow --reruns 1  # they hold limits in time on a shared machine

ray: $(VENV)/ray.stamp  ## test a fleet on a real Ray cluster of two nodes on this machine
	$(BIN)/python -m pytest -q -m slow tests/integration/test_ray.py

chaos: $(VENV)/dev.stamp  ## hit a real fleet with one fault a second and check every promise
	$(BIN)/python -m chaos $(ARGS)

bench: $(VENV)/dev.stamp  ## measure every part beside what was promised: a table and a plot
	@$(BIN)/python -m bench $(ARGS)

simulate: $(VENV)/dev.stamp  ## ten thousand simulated workers: latency, fairness, cost, two brokers
	@$(BIN)/python -m simulation $(ARGS)

check: lint imports types coverage test  ## lint, import rules, types, coverage and tests

# Without the tests that draw at random: what those alone reach, they may miss the next time.
coverage: $(VENV)/dev.stamp  ## run every branch of the protocol and the dispatcher in plain tests
	$(BIN)/coverage run -m pytest -q -m "not slow and not hypothesis" \
	  --ignore tests/unit/dispatcher/test_history.py tests/unit/protocol tests/unit/dispatcher
	$(BIN)/coverage report

lint: $(VENV)/dev.stamp  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

imports: $(VENV)/dev.stamp  ## who may import whom
	$(BIN)/lint-imports

audit: $(VENV)/dev.stamp  ## ask the internet whether a hole is known in any package here
	$(BIN)/pip-audit --strict --local

format: $(VENV)/dev.stamp  ## rewrite to the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/dev.stamp  ## mypy, strict
	$(BIN)/mypy *.py spyglass chaos bench simulation deploy tests testbed

clean:  ## forget the environment and all caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage artefacts

# One sentence, where pip would say in many lines that it finds no package for an old Python.
NEW_ENOUGH := import sys; now = sys.version_info[:2]; \
  sys.exit("Spyglass needs Python 3.11 or later, and %s is %d.%d. Name another one: make run \
  PYTHON=python3.12" % (("$(PYTHON)",) + now) if now < (3, 11) else 0)

$(VENV)/bin/python:
	@$(PYTHON) -I -c '$(NEW_ENOUGH)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: requirements.txt | $(VENV)/bin/python
	@echo "Setting up .venv (torch is large: some minutes the first time)"
	$(BIN)/pip install -q --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/dev.stamp: requirements-dev.txt $(VENV)/run.stamp
	$(BIN)/pip install -q --disable-pip-version-check -r requirements-dev.txt
	@touch $@

$(VENV)/ray.stamp: deploy/requirements-ray.txt $(VENV)/dev.stamp
	$(BIN)/pip install -q --disable-pip-version-check -r deploy/requirements-ray.txt
	@touch $@
