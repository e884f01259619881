PROFILE ?= digits
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: book test check golden lint record serve lab notebooks bench pdf compare exercises retype kit clean help
.PHONY: locked lock links publish
PIP = $(BIN)/python -m pip install -q --disable-pip-version-check
# TORCH=cpu: a build of torch without CUDA, 1.6 GB in place of 5.5. uv knows where PyTorch keeps its builds.
INSTALL = $(if $(TORCH),$(BIN)/uv pip install -q --python $(BIN)/python --torch-backend $(TORCH),$(PIP))

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(if $(TORCH),$(PIP) uv==0.13.9)
	$(INSTALL) -r requirements.txt
	$(PIP) --no-deps -e .
	touch $@

.venv/tests .venv/cluster .venv/lab: .venv/%: requirements-%.txt .venv/installed
	$(INSTALL) -r $<
	touch $@

locked:  ## the environment from requirements.lock, every file checked by its hash
	$(PYTHON) -m venv .venv
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps -e .
	touch .venv/installed .venv/tests .venv/cluster .venv/lab

lock: .venv/installed  ## requirements.lock anew, for Python 3.11 and newer on any system
	$(PIP) uv==0.13.9
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url \
	  requirements-tests.txt requirements-lab.txt -o requirements.lock

book: .venv/installed  ## execute every chapter under PROFILE and render the site (FRESH=1: train every network here)
	@NCLIB_FRESH=$(FRESH) $(BIN)/python -m press book --profile $(PROFILE)

test: .venv/tests lint  ## everything that CI runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

check: .venv/tests lint  ## in a minute: every test that starts no kernel, browser or cluster
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not expensive"

golden: .venv/tests  ## train the golden cases anew and, where versions and weights agree, rewrite tests/golden.json
	OMP_NUM_THREADS=1 $(BIN)/python tests/nclib/golden.py

lint: .venv/tests
	$(BIN)/ruff check --output-format=concise nclib press tests benchmarks book
	$(BIN)/ruff format --check nclib press tests benchmarks
	$(BIN)/nbstripout --keep-id --verify book/*.ipynb press/templates/*.ipynb

record: .venv/installed  ## copy a finished book's evidence to results/PROFILE
	@$(BIN)/python -m press record --profile $(PROFILE)

serve: book  ## render, then serve the site on http://localhost:8000
	$(BIN)/python -m http.server --directory _build/$(PROFILE)/site/_build/html --bind localhost 8000

lab: .venv/lab notebooks  ## JupyterLab on copies of the chapters, in plain Markdown
	$(BIN)/jupyter lab --notebook-dir _build/notebooks

notebooks: .venv/installed  ## the chapters in plain Markdown, for Jupyter, in _build/notebooks
	@$(BIN)/python -m press copies notebooks

bench: .venv/tests  ## every benchmark, one after the other
	@for file in benchmarks/[a-z]*.py; do OMP_NUM_THREADS=1 $(BIN)/python $$file || exit 1; done

pdf: book  ## the whole book for print: _build/PROFILE/book.pdf (needs chromium)
	@$(BIN)/python -m press pdf --profile $(PROFILE)

compare: .venv/installed  ## two runs side by side: make compare A=digits B=mine/attacks-0.1.ipynb
	@$(BIN)/python -m press compare "$(A)" "$(B)"

exercises: .venv/installed  ## the chapters without their solutions, in _build/exercises
	@$(BIN)/python -m press copies exercises

retype: .venv/installed  ## the chapters with their code cells emptied, to retype, in _build/retype
	@$(BIN)/python -m press copies retype

links: book  ## follow every link that leaves the site
	cd _build/$(PROFILE)/source && $(CURDIR)/$(BIN)/jupyter-book build . --builder linkcheck -q --path-output ../links
	@! grep "\[broken\]" _build/$(PROFILE)/links/_build/html/output.txt

publish: pdf  ## push the site, PDF and launch notebooks to the branch gh-pages
	$(PIP) ghp-import==2.1.0
	$(BIN)/ghp-import --no-jekyll --push --force --message "The book at $$(git rev-parse --short HEAD)" \
	  _build/$(PROFILE)/site/_build/html

kit:  ## pack code and wheels for a machine without internet (options: kit/pack.sh)
	@PYTHON=$(PYTHON) kit/pack.sh

clean:  ## remove executed copies and sites (trained networks in runs/ stay)
	rm -rf _build

help:  ## this list
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10
