# make run     serve on 127.0.0.1:3000 with the files in conf/
# make test    the whole test suite; make test REACTOR=aisix: on our own reactor instead of Twisted's
# make bench   the gateway beside nginx, and what each feature costs (bench/README.md)
# make bench-peers   the same beside LiteLLM's proxy, installed from PyPI into bench/out/peers
# make budget  only what each feature costs
# make profile where the gateway spends its time under the bench's load
# make lint    ruff, mypy, the import rungs
# make lock    pin the newest versions that setup.py allows
# make clean   remove what these made
#
# Everything happens in .venv, made by $(PYTHON), which must be 3.11 or newer.

PYTHON ?= python3
CONFIG = conf/aisix.yaml
BIN = .venv/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --retries 10 --timeout 60
# The checkout itself is what runs. Only this editable mode lets twistd find our plugin from every directory.
CHECKOUT = --no-deps --no-build-isolation --config-settings editable_mode=compat -e .

.DELETE_ON_ERROR:
.PHONY: run test bench bench-peers budget profile lint lock clean

run: .venv/installed
	exec $(BIN)/aisix --config $(CONFIG)

test: .venv/installed-test
	$(BIN)/python -m pytest $(REACTOR:%=-p tests.on_%) $(ARGS)

bench: .venv/installed
	PYTHON=$(BIN)/python bench/run $(ARGS)
	PYTHON=$(BIN)/python bench/run budget

bench-peers: .venv/installed bench/out/peers/litellm/installed
	PYTHON=$(BIN)/python bench/run --peers $(ARGS)

bench/out/peers/litellm/installed:
	$(PYTHON) -m venv --clear bench/out/peers/litellm
	bench/out/peers/litellm/bin/python -m pip --disable-pip-version-check install --quiet 'litellm[proxy]'
	touch $@

budget: .venv/installed
	PYTHON=$(BIN)/python bench/run budget

profile: .venv/installed-test
	PYTHON=$(BIN)/python bench/run profile $(ARGS)

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit("aisix needs Python 3.11 or newer: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear .venv
	touch $@

.venv/installed: .venv/made requirements.lock setup.py pyproject.toml
	$(PIP) install --quiet -r requirements.lock
	$(PIP) install --quiet $(CHECKOUT)
	touch $@

.venv/installed-test: requirements-test.lock .venv/installed
	$(PIP) install --quiet -r requirements-test.lock
	touch $@

lock:
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/python -m pip --disable-pip-version-check install --quiet --upgrade setuptools '.[test]'
	build/lock/bin/python -m tests.house.distributions
	rm -rf build

clean:
	rm -rf .venv build dist *.egg-info bench/bin bench/out .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache
