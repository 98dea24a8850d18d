# What a person types. `make help` lists it; everything lives in .venv, var/ and dagster_home/, all ignored by git.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# One stamp per content of the lock file and place of this folder: a changed lock installs again, and so does a folder
# that was moved or copied (an environment holds absolute paths); what is unchanged costs nothing.
STAMP := $(VENV)/.installed-$(shell (cksum < requirements.lock; pwd -P | cksum) | cut -d' ' -f1 | paste -sd- -)
ARGS ?=
# Test processes, of one thread each; every one imports torch and has models of its own (2 GB).
WORKERS ?= 2

export DO_NOT_TRACK := true
export TOKENIZERS_PARALLELISM := false
# Many container images set this; every process would then compile torch, transformers and dagster anew, for half a minute.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install setup demo compare compare-trained bench bench-full test docs-test dev check soak mutants clean

help: ## list these commands
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# An environment of another folder is removed and made anew; one that was stamped here by its lock alone is kept.
$(STAMP):
	@$(PYTHON) -I setr_lib/commands/venv.py $(VENV); test $$? -ne 3 || { echo "making $(VENV) anew" && rm -rf $(VENV); }
	@stamped=$$(echo $@ | sed 's/-[0-9]*$$//'); if test -e "$$stamped"; then mv "$$stamped" $@; else $(MAKE) -s install; fi

install: # what `setup` does where nothing is installed yet
	@echo "setting up $(VENV) (a few minutes where packages must be downloaded)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "SETR needs Python 3.11 or newer; name one with make PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@rm -f $(VENV)/.installed-*
	@touch $(STAMP)

setup: $(STAMP) ## install into .venv and write .env (every command below does it first)
	@$(BIN)/setr env --write --quiet

demo: setup ## the whole pipeline on the miniature, then its leaderboard (ARGS="--limit 20" for a trial)
	@$(BIN)/setr run $(ARGS)

compare: setup ## after a demo: every method that can run on the miniature side by side, into docs/compare.md
	@$(BIN)/setr --config setr.compare.toml compare all $(ARGS)
	@$(BIN)/python -m benchmarks.compare setr.compare.toml

compare-trained: setup ## after a demo: the trained systems and their papers' claims, into docs/compare.md (within an hour)
	@$(BIN)/python -m benchmarks.compare_trained setr.trained.toml $(ARGS)

bench: setup ## how fast SETR is against named alternatives, into docs/performance.md (less than 20 minutes)
	@$(BIN)/python -m benchmarks.speed $(ARGS)

bench-full: setup ## the same with larger sizes, in the background; it goes on where it was stopped (var/bench.log)
	@mkdir -p var; nohup $(BIN)/python -m benchmarks.speed --full --resume $(ARGS) > var/bench.log 2>&1 & \
	echo "measuring in the background (process $$!); it prints to var/bench.log"

test: setup ## all tests (ARGS="tests/methods -k ties" for some)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

docs-test: setup ## the marked commands of README and docs, as printed, in a fresh clone (after a demo: some minutes)
	@$(BIN)/python -m tests.docs $(ARGS)

dev: setup ## Dagster's UI on http://127.0.0.1:3000
	@$(BIN)/dagster dev -w workspace.yaml -h 127.0.0.1 $(ARGS)

check: setup ## lint, format, types, layers, definitions
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright --level error
	@$(BIN)/lint-imports
	@$(BIN)/dagster definitions validate -w workspace.yaml --log-level error
	@$(BIN)/dg check defs

soak: setup ## kill and resume every long step; the headlines on other worlds, SOAK_SEEDS="0 1 2" (slow)
	@$(BIN)/python -m pytest -m soak $(ARGS)

mutants: setup ## change formulas and gates one at a time: does a test notice? (ARGS="loss*" for some; slow)
	@$(BIN)/python -m tests.mutants $(ARGS)

clean: ## remove what runs made (var/, dagster_home/ but its dagster.yaml, caches); .venv stays
	@rm -rf var .env .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find dagster_home -mindepth 1 ! -name 'dagster*.yaml' -delete
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
