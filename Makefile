# Two commands are all one needs: `make demo` and `make test`.
# Each makes a virtual environment in .venv and installs the project into it.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PORT ?= 8050
LOOP ?= asyncio
PYTEST_ARGS ?=
BENCH_ARGS ?=
FUZZ_ARGS ?=

.PHONY: demo test soak fuzz bench bench-quick lint docs clean

demo: $(VENV)/.installed-demo
	$(BIN)/dashws demo --port $(PORT) --loop $(LOOP)

# Most tests wait most of the time: two at once. What measures time or memory runs alone,
# if it is asked for (pytest ends with 5 where there are no tests).
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 -m "not alone" $(PYTEST_ARGS)
	$(BIN)/python -m pytest -m alone $(PYTEST_ARGS) || [ $$? = 5 ]

# Ten times as many connections that come and go as `make test` has; some minutes.
soak: $(VENV)/.installed-dev
	SOAK_CYCLES=20000 $(BIN)/python -m pytest -s -o faulthandler_timeout=0 tests/test_many.py

# Coverage-guided fuzzing of the decoder of client messages, until it is interrupted.
fuzz: $(VENV)/.installed-fuzz
	$(BIN)/python tests/fuzz/decoder.py $(FUZZ_ARGS)

# All contenders and scenarios, in about half an hour; writes docs/benchmarks.md and .html.
bench: $(VENV)/.installed-load
	$(BIN)/python -m bench.suite --write $(BENCH_ARGS)

# The goals' contenders at small sizes, in three minutes: the ratios, and which goals are met.
bench-quick: $(VENV)/.installed-load
	$(BIN)/python -m bench.suite --quick $(BENCH_ARGS)

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
