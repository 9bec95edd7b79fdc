# Two commands are all one needs: `make demo` and `make test`.
# Each makes a virtual environment in .venv and installs the project into it.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PORT ?= 8050
LOOP ?= asyncio
PYTEST_ARGS ?=

.PHONY: demo test soak lint docs clean

demo: $(VENV)/.installed-demo
	$(BIN)/dashws demo --port $(PORT) --loop $(LOOP)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Ten times as many connections that come and go as `make test` has; some minutes.
soak: $(VENV)/.installed-dev
	SOAK_CYCLES=20000 $(BIN)/python -m pytest -s tests/test_many.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site build dist

# One environment; each stamp says which extra is installed in it.
$(VENV)/.installed-%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "dashws-async needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.13"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "No venv module: apt-get install python3-venv"; exit 1; }
