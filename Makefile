# Two promises on a fresh machine with Python 3.11+: `make run` and `make test`. See README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PYTEST_ARGS ?=
# One more than two cores have: many tests wait for a process or a deadline.
TEST_PROCESSES ?= 3

.PHONY: run test lint unit soak fuzz bench peers lock clean

run: $(VENV)/.serve
	$(BIN)/ichor demo $(ARGS)

test: $(VENV)/.test peers lint unit

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(TEST_PROCESSES) --dist loadgroup -m "not soak" $(PYTEST_ARGS)

# The long forms: full fault counts (200 kills of the receiver over 100,000 instances, 10,000 probes), all phantoms, 10,000 arrivals.
soak: $(VENV)/.test peers
	$(BIN)/pytest -m soak --timeout 3600 $(PYTEST_ARGS)

# 1,000,000 damaged messages to whatever reads a stranger's bytes; FUZZ_ARGS="--cases 10000 --seed 2". See docs/fuzz.md.
fuzz: $(VENV)/.test
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

# Ratios against peers and absolute figures; exit 1 when a goal is missed. Never part of the tests.
bench: $(VENV)/.test peers
	$(BIN)/python -m bench

# Programs that the tests talk to (Orthanc, DCMTK, validators, a browser): Debian packages where apt and root are there.
peers:
	@tests/install_peers

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(VENV)/.serve: $(BIN)/python requirements/serve.txt pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements/serve.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.serve requirements/test.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements/test.txt
	@touch $@

# Pinned, without any registry's address.
lock: $(BIN)/python
	$(BIN)/uv pip compile -q --upgrade --no-emit-index-url --no-header --python-version 3.11 pyproject.toml -o requirements/serve.txt
	$(BIN)/uv pip compile -q --no-emit-index-url --no-header --python-version 3.11 --extra s3 -c requirements/serve.txt pyproject.toml -o requirements/s3.txt
	$(BIN)/uv pip compile -q --no-emit-index-url --no-header --python-version 3.11 --extra test --extra train --extra s3 -c requirements/serve.txt pyproject.toml -o requirements/test.txt

clean:
	rm -rf $(VENV) build *.egg-info
