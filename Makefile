# make setup | rehearse | test | test-long | backends | lint | bench | lock | schemas
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := .bootstrap/bin/uv
STAMP := $(VENV)/.stamp
DEV_STAMP := $(VENV)/.stamp-dev

.PHONY: setup dev rehearse test test-fast test-long backends lint bench lock schemas recordings clean
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
	@$(BIN)/pytest -n 2 -m "not e2e and not tmux and not real and not long" tests
	@$(BIN)/pytest -p no:xdist -m "(e2e or tmux) and not real and not long" tests

test-fast: dev
	@$(BIN)/pytest -n 2 -m "not e2e and not tmux and not real and not long" tests

test-long: dev
	@$(BIN)/pytest -p no:xdist -m long tests

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
