PROFILE ?= digits
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: book test check golden lint record serve lab bench pdf compare exercises kit clean help

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	touch $@

.venv/cluster .venv/lab: .venv/%: requirements-%.txt .venv/installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -r $<
	touch $@

book: .venv/installed  ## execute every chapter under PROFILE and render the site (FRESH=1: train every network here)
	@NCLIB_FRESH=$(FRESH) $(BIN)/python -m press book --profile $(PROFILE)

test: .venv/cluster lint  ## everything that CI runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

check: .venv/cluster lint  ## in a minute: every test that starts no kernel, browser or cluster
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not expensive"

golden: .venv/cluster  ## train the golden cases anew and, where versions and weights agree, rewrite tests/golden.json
	OMP_NUM_THREADS=1 $(BIN)/python tests/nclib/golden.py

lint: .venv/installed
	$(BIN)/ruff check --output-format=concise nclib press tests benchmarks book
	$(BIN)/ruff format --check nclib press tests benchmarks
	$(BIN)/nbstripout --keep-id --verify book/*.ipynb press/templates/*.ipynb

record: .venv/installed  ## copy a finished book's evidence to results/PROFILE
	@$(BIN)/python -m press record --profile $(PROFILE)

serve: book  ## render, then serve the site on http://localhost:8000
	$(BIN)/python -m http.server --directory _build/$(PROFILE)/site/_build/html --bind localhost 8000

lab: .venv/lab  ## JupyterLab on the chapters
	$(BIN)/jupyter lab --notebook-dir book

bench: .venv/cluster  ## every benchmark, one after the other
	@for file in benchmarks/*.py; do OMP_NUM_THREADS=1 $(BIN)/python $$file || exit 1; done

pdf: book  ## the whole book for print: _build/PROFILE/book.pdf (needs chromium)
	@$(BIN)/python -m press pdf --profile $(PROFILE)

compare: .venv/installed  ## two runs side by side: make compare A=digits B=mine/attacks-0.1.ipynb
	@$(BIN)/python -m press compare "$(A)" "$(B)"

exercises: .venv/installed  ## the chapters without their solutions, in _build/exercises
	@$(BIN)/python -m press exercises

kit:  ## pack code and wheels for a machine without internet (options: kit/pack.sh)
	@PYTHON=$(PYTHON) kit/pack.sh

clean:  ## remove executed copies and sites (trained networks in runs/ stay)
	rm -rf _build

help:  ## this list
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10
