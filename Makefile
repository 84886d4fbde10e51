# Every target sets up what it needs in a virtual environment of its own; nothing outside this folder changes.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := help
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# CPython 3.11 or later that can make virtual environments (Debian's may lack ensurepip), in order of preference.
CANDIDATES := python3 python3.11 python3.12 python3.13 python3.14 $(wildcard $(HOME)/.pyenv/versions/*/bin/python3)
MINOR := import sys, venv, ensurepip; (3, 11) <= sys.version_info and sys.implementation.name == "cpython" \
	and print("%d.%d" % sys.version_info[:2])
minor_of = v=$$($$p -c '$(MINOR)' 2>/dev/null || true)
interpreter = $(shell for p in $(CANDIDATES); do $(minor_of); if [ "$$v" = "$(1)" ]; then echo $$p; break; fi; done)
MINORS = $(shell for p in $(CANDIDATES); do $(minor_of); echo $$v; done | sort -uV)
OTHERS = $(filter-out $(shell p=$(PYTHON); $(minor_of); echo $$v),$(MINORS))

# Most tests wait more than they compute, so some more than there are cores run at once.
AT_ONCE ?= 3

PYTHON ?= $(shell for p in $(CANDIDATES); do $(minor_of); if [ -n "$$v" ]; then echo $$p; break; fi; done)
VENV ?= .venv
BIN := $(VENV)/bin

# The modules of the import contract named "pure".
PURE = $(shell $(BIN)/python -c 'import tomllib; \
	contracts = tomllib.load(open("pyproject.toml", "rb"))["tool"]["importlinter"]["contracts"]; \
	print(*next(c["source_modules"] for c in contracts if c["id"] == "pure"))')
CORE_TESTS = $(wildcard tests/unit tests/property)
QUICK_TESTS = $(wildcard tests/unit tests/property tests/contract)
# Type-checked where what they are about is installed: `make frameworks`.
BESIDE = $(addprefix examples/,litestar_app.py oauth_login.py admin_sqladmin.py admin_starlette_admin.py)
OTHER_TESTS = tests $(CORE_TESTS:%=--ignore=%) --ignore=tests/benchmarks

# What `make bench` runs, one after the other; `make bench-trail` runs one of them.
BENCHES = peers archive trail proof boot staleness flood revocations logins

.PHONY: help test test-all frameworks lint core-tests other-tests demo demo-check bench clean $(BENCHES:%=bench-%)

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

test: lint core-tests other-tests ## Lint and test with the default Python, then test quickly with every other CPython found
	@for v in $(OTHERS); do $(MAKE) --no-print-directory quick-$$v; done

frameworks: $(BIN)/.frameworks ## Test beside Litestar, Authlib, sqladmin and starlette-admin
	$(BIN)/mypy $(BESIDE)
	$(BIN)/pyright --pythonpath $(BIN)/python $(BESIDE)
	$(BIN)/python -m pytest tests/integration/test_frameworks.py

test-all: frameworks ## Run every test with every CPython found, 3.11 or later
	@for v in $(MINORS); do $(MAKE) --no-print-directory full-$$v; done

lint: $(BIN)/.dev ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python $(filter-out $(BESIDE),$(wildcard examples/*.py))
	$(BIN)/lint-imports

core-tests: $(BIN)/.dev
	@test -n "$(PURE)" || { echo "no import contract named pure in pyproject.toml" >&2; exit 1; }
	$(BIN)/python -m pytest -n $(AT_ONCE) $(CORE_TESTS) $(PURE:%=--cov=%) --cov-branch --cov-fail-under=100

other-tests: $(BIN)/.dev
	$(BIN)/python -m pytest -n $(AT_ONCE) $(OTHER_TESTS)

demo: $(BIN)/.demo ## Show the product at work: two workers, one browser, one forced logout
	$(BIN)/evsession demo

demo-check: $(BIN)/.demo ## Run the demonstration by itself and fail unless it keeps its promises
	$(BIN)/evsession demo --check

bench: $(BIN)/.bench ## Measure against the peers, and the trail; each part runs even if one before it misses its target
	$(MAKE) --no-print-directory --keep-going -j1 $(BENCHES:%=bench-%)

bench-peers: $(BIN)/.bench
	$(BIN)/python -m tests.benchmarks

bench-archive bench-trail bench-proof bench-boot: bench-%: $(BIN)/.bench
	$(BIN)/python -m tests.benchmarks.$*

bench-staleness: $(BIN)/.bench
	EVSESSION_CHAOS_SECONDS=60 $(BIN)/python -m pytest -s tests/chaos/test_staleness.py

bench-flood: $(BIN)/.bench
	EVSESSION_WRITERS=20000 $(BIN)/python -m pytest -s tests/chaos/test_flood.py

bench-revocations: $(BIN)/.bench
	EVSESSION_REVOCATIONS=500 $(BIN)/python -m pytest -s tests/chaos/test_forced_logout.py

bench-logins: $(BIN)/.bench
	EVSESSION_SIMULATIONS=10000 $(BIN)/python -m pytest tests/simulation/test_logins.py

clean: ## Remove virtual environments, caches and build results
	rm -rf .venv .venv-* build dist htmlcov .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache \
		.pytest_cache .ruff_cache
	find evsession tests examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

quick-%: .venv-%/bin/.dev
	.venv-$*/bin/python -m pytest -n $(AT_ONCE) $(QUICK_TESTS)

full-%: .venv-%/bin/.dev
	.venv-$*/bin/python -m pytest -n $(AT_ONCE) tests --ignore=tests/benchmarks

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no CPython 3.11 or later with venv and ensurepip found; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

.venv-%/bin/python:
	$(call interpreter,$*) -m venv .venv-$*

# A stamp says that its extra is installed; a change of pyproject.toml installs again.
$(BIN)/.dev $(BIN)/.demo: $(BIN)/.%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -qq -e '.[$*]'
	@touch $@

$(BIN)/.frameworks: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -qq -e '.[dev,frameworks]'
	@touch $@

$(BIN)/.bench: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -qq -e '.[dev,bench]'
	@touch $@

.venv-%/bin/.dev: pyproject.toml | .venv-%/bin/python
	.venv-$*/bin/python -m pip install -qq -e '.[dev]'
	@touch $@

.PRECIOUS: .venv-%/bin/python .venv-%/bin/.dev
