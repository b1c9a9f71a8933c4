# Each target makes .venv and installs what it needs; Python 3.11 or newer is all there must be.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CODE := gateway_core plugins tests bench examples
PORT ?= 8000

.PHONY: serve test check bench format clean

$(BIN)/.serve: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[all]'
	touch $@

$(BIN)/.dev: pyproject.toml | $(BIN)/.serve
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

serve: $(BIN)/.serve
	@exec $(BIN)/gateway demo --port $(PORT) --data-dir var

test: $(BIN)/.dev  # the processes that tests start must not compile every module anew; contracts are in `check`
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --dist loadfile -m 'not slow' --ignore tests/contracts $(ARGS)

check: $(BIN)/.dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/contracts

bench: $(BIN)/.dev
	$(BIN)/python bench/run.py $(ARGS)

format: $(BIN)/.dev
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist
