# Every target sets up its own environment: `make demo` and `make test` work in a fresh clone.
# PYTHON=python3.12 chooses the interpreter, PIP_OPTIONS is passed to pip: a machine without a
# CUDA device saves gigabytes with
#   make setup PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cpu"
# WORKERS test files are run side by side.

PYTHON ?= python3
PIP_OPTIONS ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(READY) ## Create .venv and install everything, pinned by constraints.txt

$(READY): pyproject.toml constraints.txt
	@echo "Installing into $(VENV); the first time takes a few minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) \
		--constraint constraints.txt --editable '.[server,plot,postgres,dev]'
	@touch $@

.PHONY: demo
demo: setup ## Correct a fact, check it, take it back: the whole story on the bundled model
	$(BIN)/errata demo

.PHONY: test
test: setup ## Run all tests
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(TESTS)

.PHONY: test-fast
test-fast: setup ## Run the tests that take less than ten seconds each
	$(BIN)/python -m pytest -m 'not slow' $(TESTS)

.PHONY: lint
lint: setup ## Check style, types, imports, protos and stubs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tools.stubs lint
	$(BIN)/python -m tools.stubs check

.PHONY: check
check: lint test ## Run what continuous integration runs

.PHONY: fix
fix: setup ## Repair what can be repaired by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: proto
proto: setup ## Generate client/errata/v1 from proto/
	$(BIN)/python -m tools.stubs write

.PHONY: migrate
migrate: setup ## Bring the ledger that ERRATA_LEDGER names to the newest schema
	$(BIN)/errata-server migrate

.PHONY: serve
serve: migrate ## Serve a model; ARGS="--model PATH --listen HOST:PORT" and the like
	$(BIN)/errata-server serve $(ARGS)

.PHONY: bench-efficacy
bench-efficacy: setup ## Measure how well edits hold; ARGS="--edits 300 --regime live"
	$(BIN)/python -m benchmarks.efficacy $(ARGS)

.PHONY: bench-methods
bench-methods: setup ## Compare all methods by number of edits: a table, JSON and a plot in build/
	mkdir -p build
	$(BIN)/python -m benchmarks.efficacy --edits 300 --regime sequential --method all \
		--sweep 1,10,100,300 --judged 100 --cache build/patches \
		--plot build/methods.svg --output build/methods.json $(ARGS)

.PHONY: bench-capacity
bench-capacity: setup ## Find how many edits a linear export bears, by each method
	mkdir -p build
	$(BIN)/python -m benchmarks.capacity --method all --cache build/patches \
		--output build/capacity.json $(ARGS)

.PHONY: bench-recognition
bench-recognition: setup ## Measure how guards know their subjects, and what else they fire on
	$(BIN)/python -m benchmarks.recognition $(ARGS)

.PHONY: bench-serving
bench-serving: setup ## Measure tokens a second with edits, and how long a change takes
	$(BIN)/python -m benchmarks.serving $(ARGS)

.PHONY: bench-proposals
bench-proposals: setup ## Measure what a proposal costs alone and in a batch of 64
	$(BIN)/python -m benchmarks.proposals $(ARGS)

.PHONY: bench-attribution
bench-attribution: setup ## Compare attribution's order of sites with the exact causal trace's
	$(BIN)/python -m benchmarks.attribution $(ARGS)

.PHONY: bench-reliability
bench-reliability: setup ## Break things in one way and count broken promises; ARGS="--suite kills"
	$(BIN)/python -m benchmarks.reliability $(ARGS)

.PHONY: train
train: setup ## Train the bundled model again, into build/model (an hour on two cores)
	$(BIN)/python -m tools.train --output build/model --seed 11 --steps 6780 --weight-decay 0.02 $(ARGS)
	$(BIN)/python -m tools.evaluate --model build/model --traced 150

.PHONY: dist
dist: setup ## Build the wheel and the source distribution into dist/
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

.PHONY: clean
clean: ## Remove the environment and everything built
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
