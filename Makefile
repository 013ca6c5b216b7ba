# litellama: `make learn` opens the lessons, `make test` runs everything. `make` alone lists the rest.
#
# Each target first makes what it needs: the virtual environment in .venv, and the default model in
# the cache folder. Both are made once; after that a target starts at once.

.DEFAULT_GOAL := help
SHELL := /bin/sh
.DELETE_ON_ERROR:
.PHONY: help model learn test lint chat bench book figures notebooks exercises clean

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Where `litellama pull` puts the default model (litellama/checkpoints/cache.py).
CACHE := $(or $(LITELLAMA_HOME),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/litellama)

# Extra words for `jupyter lab`, as in: make learn LAB_ARGS="--no-browser --port 9000"
LAB_ARGS ?=
# Extra words for `voila`, as in: make chat-web WEB_ARGS="--no-browser --port 9000"
WEB_ARGS ?=
# Extra words for `litellama bench`, as in: make bench BENCH_ARGS="--batch 4"
BENCH_ARGS ?=
# A file of tests, or a notebook, to each of a few processes. One thread in each: with more they
# wait for one another, and the tests took three times as long.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
# JupyterLab refuses to serve root unless told to.
AS_ROOT = $(shell [ "$$(id -u)" != 0 ] || echo --allow-root)
# Which Python makes the environment: the first of these that is new enough.
PYTHON ?= python3 python3.13 python3.12 python3.11 python3.14 python

help: ## list the targets
	@echo "litellama"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1#\2/p' Makefile | awk -F'#' '{ printf "%-18s %s\n", $$1, $$2 }'

learn: model ## open JupyterLab on the first lesson
# Served from here, so that a lesson finds its pictures and its exercises.
	$(BIN)/jupyter lab $(AS_ROOT) --ServerApp.root_dir="$(CURDIR)" \
	  --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(LAB_ARGS)

test: model lint ## lint, then run every test, lesson and solution
	@echo "== tests"
	$(PYTEST) tests
	@echo "== lessons and solutions, from top to bottom"
	$(PYTEST) --nbval-lax --nbval-current-env --nbval-cell-timeout=120 notebooks solutions

lint: $(INSTALLED) ## ruff, mypy, exercises and figures up to date, notebooks fit to publish
	@echo "== lint"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/make_exercises.py --check
	$(BIN)/python tools/check_notebooks.py
	$(BIN)/python benchmarks/summary.py --check

chat: model ## talk with the model in the terminal
	@$(BIN)/litellama chat

.PHONY: chat-web
chat-web: model ## the chat as a page of its own, in the browser
	@$(BIN)/python -c "import voila" 2>/dev/null || \
	  $(BIN)/python -m pip install -e '.[web]' -c constraints.txt
	$(BIN)/python -m litellama.course.chat $(WEB_ARGS)

bench: model ## measure the engine against transformers on this machine
	@$(BIN)/litellama bench $(BENCH_ARGS)

book: $(INSTALLED) ## the book as a web site, in build/book
	@$(BIN)/python -c 'import myst_nb, sphinx_book_theme' 2>/dev/null || \
	  $(BIN)/python -m pip install -q -e '.[book]' -c constraints.txt
	$(BIN)/python -m book

figures: $(INSTALLED) ## draw every figure in images/ again
	@for script in images/*.py; do echo "$$script"; $(BIN)/python "$$script" || exit 1; done

.PHONY: screenshots
screenshots: model ## take the README's pictures of a lesson and of the chat again
	@$(BIN)/python -c 'import playwright' 2>/dev/null || \
	  $(BIN)/python -m pip install -q -e '.[browser]' -c constraints.txt
	$(BIN)/python -m tests.browser.screenshots

notebooks: model ## run every lesson and solution and store the outputs
	$(BIN)/python tools/run_notebooks.py notebooks/*.ipynb solutions/*.ipynb

exercises: $(INSTALLED) ## make exercises/ again from solutions/, save those you have written in
	$(BIN)/python tools/make_exercises.py

clean: ## remove the virtual environment and the caches of the tools (the model stays)
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build *.egg-info

# The environment, made once, and brought up to date when the list of packages changes.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
$(INSTALLED): pyproject.toml constraints.txt
	@set -e; \
	if ! $(BIN)/python -c '$(SUPPORTED)' 2>/dev/null; then \
	  python=; \
	  for candidate in $(PYTHON); do \
	    if "$$candidate" -c '$(SUPPORTED)' 2>/dev/null; then python=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "litellama needs Python 3.11 to 3.14, and found none (tried: $(PYTHON))."; \
	    echo "Install one (Debian, Ubuntu: sudo apt install python3 python3-venv; macOS: brew install"; \
	    echo "python@3.13), or name the one to use: make learn PYTHON=/path/to/python3.12"; \
	    exit 1; \
	  fi; \
	  if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo "$$python cannot make virtual environments: its venv module is missing."; \
	    echo "Install it (Debian, Ubuntu: sudo apt install python3-venv) and run make again."; \
	    exit 1; \
	  fi; \
	  echo "== a virtual environment in $(VENV), from $$("$$python" -V)"; \
	  "$$python" -m venv --clear $(VENV); \
	fi; \
	echo "== packages, at the tested versions (the first time this takes some minutes)"; \
	$(BIN)/python -m pip install -e '.[all]' -c constraints.txt; \
	$(BIN)/jupyter labextension disable --level=sys_prefix @jupyterlab/apputils-extension:announcements; \
	touch $@

# The default model. Its file is looked for each time, so that a removed cache is filled again.
model: $(INSTALLED)
	@test -f "$(CACHE)/models/smollm2/config.json" || { \
	  echo "== the default model, SmolLM2-135M-Instruct (a download of 93 MB)"; \
	  $(BIN)/litellama pull smollm2; \
	}
