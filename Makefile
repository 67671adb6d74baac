# One set of commands, the same for people and CI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install run test check soak conventions format openapi bench profile memory lock
install: $(VENV)/.installed

$(VENV)/.installed: requirements.lock requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

run: install
	$(BIN)/lamina serve

# Side by side: no test depends on how busy the machine is.
test: install
	$(BIN)/pytest -n 2 $(COVER)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.openapi --check
	$(MAKE) test COVER=--cov

# The tests of reliability in full, hours, alone on the machine; docs/reliability.md has what they
# measured.
MEASURED := tests/compute/test_cost.py tests/compute/test_torch_is_safe.py \
	tests/api/test_rates.py tests/api/test_open_inference.py
soak: install
	$(BIN)/python -m pip install --quiet "atheris>=3"
	SOAK=1 $(BIN)/pytest tests/fuzz tests/load tests/server tests/reference $(MEASURED)

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

openapi: install
	$(BIN)/python -m tools.openapi
	$(BIN)/python -m tests.surprises

# The same layers in Keras, ONNX and Flax, in an environment of their own.
conventions: $(VENV)-conventions/.installed
	$(VENV)-conventions/bin/pytest tests/conventions

$(VENV)-conventions/.installed: requirements-dev.lock requirements-conventions.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)-conventions
	$(VENV)-conventions/bin/python -m pip install --quiet -r requirements-dev.lock -r requirements-conventions.lock
	$(VENV)-conventions/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Beside its peers, in an environment of their own; about ten minutes. The parts that matter for
# small requests take half a minute: .venv-bench/bin/python -m benchmarks --brief
bench: $(VENV)-bench/.installed
	$(VENV)-bench/bin/python -m benchmarks --write

# How the time of a request, and the memory of an idle worker, divide among their parts.
profile memory: install
	$(BIN)/python -m benchmarks.$@

$(VENV)-bench/.installed: requirements-dev.lock requirements-bench.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --quiet -r requirements-bench.lock
	$(VENV)-bench/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# The pins. Torch is pinned without its build (+cpu, +cu130): the index decides which it has.
COMPILE := pip-compile --quiet --strip-extras --allow-unsafe --no-header --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-options
lock: install
	$(BIN)/$(COMPILE) --output-file requirements.lock pyproject.toml
	$(BIN)/$(COMPILE) --extra dev --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml
	$(BIN)/$(COMPILE) --extra conventions --constraint requirements-dev.lock --output-file requirements-conventions.lock pyproject.toml
	$(BIN)/$(COMPILE) --extra bench --extra dev --output-file requirements-bench.lock pyproject.toml
	sed -i.bak 's/^\(torch==[0-9.]*\)+.*/\1/' requirements*.lock && rm requirements*.lock.bak
