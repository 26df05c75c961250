# Both `make demo` and `make test` do all their set-up: a virtual environment in .venv, everything by pip.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LOWEST := $(VENV)-lowest
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DELETE_ON_ERROR:  # a virtual environment without pip, of a Debian without python3-venv, is no environment
.PHONY: demo test test-engines test-fast test-lowest lint bench chromium clean

demo: $(VENV)/.engine  ## compare replicated, pd and ppd of a real model on two cores of this machine
	$(BIN)/tercet compare --preset demo

test: $(VENV)/.dev chromium  ## every test that needs no third-party engine
	$(BIN)/python -m pytest -m "not engines"

test-engines: $(VENV)/.dev  ## what needs real vLLM, which goes into an environment of its own (4 GB)
	$(BIN)/tercet engine install vllm
	TERCET_CI=1 $(BIN)/python -m pytest -m engines tests/engines

test-fast: $(VENV)/.dev  ## the fast suite, for the inner loop
	$(BIN)/python -m pytest -m "not slow and not engines"

test-lowest: $(VENV)/.dev  ## the unit tests with the oldest libraries that pyproject.toml allows
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip --disable-pip-version-check --quiet install -c constraints.txt torch==2.13.0
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct -e '.[engine,vision,report,nixl,mooncake,otel]'
	$(LOWEST)/bin/python -m pip --disable-pip-version-check --quiet install -c constraints.txt -e '.[dev]'
	$(LOWEST)/bin/python -m pytest -m "not slow" tests/unit
	$(LOWEST)/bin/python -m pytest -m slow tests/unit/transfer

chromium:  ## the browser for the tests of pages, where it is missing
	./scripts/chromium.sh

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.engine  ## the benchmarks, as ratios against a named peer in one run
	$(BIN)/python -m benchmarks.run

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first and by its exact pin: any other spec takes several GB of CUDA packages.
$(VENV)/.engine: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt torch==2.13.0
	$(PIP) install -c constraints.txt -e '.[engine,vision]'
	touch $@

$(VENV)/.dev: $(VENV)/.engine
	$(PIP) install -c constraints.txt -e '.[engine,vision,report,nixl,mooncake,otel,dev]'
	./scripts/mooncake_libraries.sh $(BIN)/python
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) build dist *.egg-info src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
