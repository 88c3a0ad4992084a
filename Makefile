# make setup | rehearse | test | test-real | test-long | backends | lint | bench | lock | schemas
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := .bootstrap/bin/uv
REAL ?= 0
# Twice the cores of a small machine: the tests wait for sockets and processes half of their time.
JOBS ?= 4
IN_NAMESPACE := $(BIN)/python -m cockpit.rehearsal.real.namespace
# What fails is run once more, alone: tests, servers and rehearsals share the machine's cores. Both runs are shown.
# Only after a run that came to its end (pytest's 1): of one that did not, the failures are not all there is to try.
tested = $(1) $(2) -m $(3) tests || { test $$? = 1 && echo "== what failed, once more and alone ==" && $(1) -p no:xdist -m $(3) --last-failed --last-failed-no-failures=none tests; }
STAMP := $(VENV)/.stamp
DEV_STAMP := $(VENV)/.stamp-dev

.PHONY: setup dev rehearse test test-fast test-real test-long backends lint bench lock schemas recordings clean
.DELETE_ON_ERROR:

setup: $(STAMP)

$(UV): requirements-bootstrap.lock
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Release Cockpit needs Python 3.11 or newer; $(PYTHON) is %d.%d. Set PYTHON=/path/to/python3.11." % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "This Python has no ensurepip. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@rm -rf .bootstrap && $(PYTHON) -m venv .bootstrap
	@.bootstrap/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements-bootstrap.lock

$(STAMP): $(UV) requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(UV) venv --quiet --no-python-downloads --python $(PYTHON) $(VENV)
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

dev: $(DEV_STAMP)

$(DEV_STAMP): $(STAMP) requirements-dev.lock
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.lock
	@touch $@

rehearse: setup
	@$(BIN)/cockpit rehearse $(ARGS)

lint: dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: lint
	@$(call tested,$(BIN)/pytest,-n $(JOBS) --dist worksteal,"not e2e and not tmux and not real and not long")
	@$(MAKE) --no-print-directory test-real
	@$(call tested,$(BIN)/pytest,-p no:xdist,"(e2e or tmux) and not real and not long")

# On the real servers. What is not there is skipped and named; with REAL=1 it is brought, or the tests fail.
test-real: dev
	@if [ "$(REAL)" = 1 ]; then $(MAKE) --no-print-directory backends; fi
	@if $(IN_NAMESPACE) true; then \
		{ $(call tested,$(IN_NAMESPACE) $(BIN)/pytest,-n $(JOBS) --dist loadfile,"real and not e2e and not long"); } && \
		{ $(call tested,$(IN_NAMESPACE) $(BIN)/pytest,-p no:xdist,"real and e2e and not long"); }; \
	elif [ "$(REAL)" = 1 ]; then exit 1; else echo "skipped: every test on real servers, for want of a network namespace"; fi

test-fast: dev
	@$(BIN)/pytest -n $(JOBS) --dist worksteal -m "not e2e and not tmux and not real and not long" tests

test-long: dev
	@$(BIN)/pytest -p no:xdist -m "long and not real" tests
	@if [ "$(REAL)" = 1 ]; then $(MAKE) --no-print-directory backends ARGS=--long; fi
	@$(IN_NAMESPACE) $(BIN)/pytest -p no:xdist -m "long and real" tests

# The real servers, built and unpacked into a cache outside the checkout.
backends:
	@$(PYTHON) -m tests.real.backends $(ARGS)

bench: dev
	@for b in benchmarks/bench_*.py; do $(BIN)/python $$b || exit 1; done

recordings: dev
	@$(BIN)/python -m tests.remake_recordings

schemas: setup
	@$(BIN)/cockpit schema --write

lock: $(UV)
	@$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" pyproject.toml -o requirements.lock
	@$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean:
	@rm -rf .venv .bootstrap build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
