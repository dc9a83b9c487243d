# `make` lists the targets. Every target sets up what it needs; only the first set-up takes long.

PYTHON ?= python3
VENV ?= .venv
# More options for pip, such as an index with CPU-only builds of torch: make install PIP_ARGS="--extra-index-url ..."
PIP_ARGS ?=
# More options for the target's program: make test ARGS="-k catalogue"
ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test check format docs bench soak clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP)  ## Make .venv and install the pinned versions

# The stamp is older than these two files when they change, so a changed pin is installed by the next target.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Weitiao needs Python 3.11 or newer. Name one: make install PYTHON=python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || { echo "Making $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@echo "Installing into $(VENV): a few minutes the first time ..."
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[train,track,serve,openvino,scale,dev]'
	@touch $@

demo: install  ## Fine-tune on real data in both languages and show the result
	$(BIN)/python examples/demo.py $(ARGS)

# One thread a worker: two workers with two threads each would contend for two cores.
test: install  ## Run the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: install  ## Lint, format check, types, direction of imports, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/make_commands.py --check
	$(BIN)/python docs/make_ladder.py --check
	$(BIN)/python deploy/make.py --check

format: install  ## Format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install  ## Write docs/commands.md, docs/ladder and deploy's generated files anew
	$(BIN)/python docs/make_commands.py
	$(BIN)/python docs/make_ladder.py
	$(BIN)/python deploy/make.py

bench: install  ## Run the benchmarks and keep their results under comparisons/
	$(BIN)/python -m benchmarks $(ARGS)

soak: install  ## Run the long tests
	$(BIN)/python -m pytest -m soak $(ARGS)

clean:  ## Remove .venv, caches and build products (runs/ stays)
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find src tests examples benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
