PROFILE ?= digits
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: book test lint record serve lab bench clean help

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	touch $@

book: .venv/installed  ## execute every chapter under PROFILE and render the site
	@$(BIN)/python -m nclib book --profile $(PROFILE)

test: .venv/installed lint  ## everything that CI runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check --output-format=concise nclib tests benchmarks book
	$(BIN)/ruff format --check nclib tests benchmarks
	$(BIN)/nbstripout --keep-id --verify book/*.ipynb

record: .venv/installed  ## copy a finished book's evidence to results/PROFILE
	@$(BIN)/python -m nclib record --profile $(PROFILE)

serve: book  ## render, then serve the site on http://localhost:8000
	$(BIN)/python -m http.server --directory _build/$(PROFILE)/site/_build/html --bind localhost 8000

lab: .venv/installed  ## JupyterLab on the chapters
	$(BIN)/jupyter lab --notebook-dir book

bench: .venv/installed  ## every benchmark, one after the other
	@for file in benchmarks/*.py; do OMP_NUM_THREADS=1 $(BIN)/python $$file || exit 1; done

clean:  ## remove executed copies and sites (trained networks in runs/ stay)
	rm -rf _build

help:  ## this list
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10
