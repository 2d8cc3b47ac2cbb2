# reasonlab: `make help` says what there is. Everything happens in .venv and in folders that git ignores.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test lab site bench check slow fresh fuzz mathjax axe clean

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 1); echo $$((n > 4 ? 4 : n)))

# Nothing here fetches a model or a data set behind your back.
export HF_HUB_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
export MPLBACKEND ?= agg
export PIP_DISABLE_PIP_VERSION_CHECK := 1
ifneq ($(wildcard ../shared/data),)
export REASONLAB_DATA ?= $(shell cd ../shared/data && pwd)
endif

help:  ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' Makefile
	@echo "make test ARGS='-k steps'   passes arguments to pytest (ARGS='-n 0' runs one test at a time)"

run: .venv/ready  ## the demo at once, then the scorecard at home scale (minutes), then the report
	@$(BIN)/reasonlab demo --no-open
	@$(BIN)/reasonlab reproduce --scale home --report runs/scorecard.html
	@echo "The scorecard is in runs/scorecard.html, the book in nbs/ (make lab) and on the site (make site)."

test: .venv/ready  ## every notebook and every test
	@$(BIN)/python -m pytest tests -n $(JOBS) --dist loadfile $(ARGS)

slow: .venv/ready  ## the cells flagged slow, too
	@$(BIN)/nbdev-test --flags slow --n-workers 1 --timing

fresh: .venv/ready  ## every notebook in a fresh kernel of its own (nbval): nothing leans on another
	@$(BIN)/python -m pytest --nbval-lax nbs -n $(JOBS) --dist loadfile $(ARGS)

fuzz: .venv/ready  ## ten minutes of atheris on each parser of what strangers wrote (ARGS='TARGET --seconds 60')
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install -qq -c constraints.txt atheris
	@$(BIN)/python tests/fuzz/run.py $(or $(ARGS),all)

lab: .venv/ready  ## JupyterLab on the book
	@$(BIN)/jupyter lab nbs

site: .venv/ready  ## the site in _site/html; a warning is an error
	@$(BIN)/python docs/stage.py
	@$(BIN)/python -m sphinx -q -W --keep-going -E -b html _stage _site/html
	@echo "The site is in _site/html/index.html"

bench: .venv/ready  ## ours beside its peers
	@$(BIN)/reasonlab bench $(ARGS)

check: .venv/ready  ## what must hold before a change lands
	@$(BIN)/python -m pytest tests/test_export.py tests/test_layers.py
	@$(BIN)/ruff check .
	@$(MAKE) --no-print-directory site
	@$(MAKE) --no-print-directory test

mathjax:  ## a local copy of MathJax, for a site that is read offline
	@mkdir -p _site/npm docs/_static/mathjax && cd _site/npm && rm -rf package && npm pack --silent mathjax@3.2.2 && tar xzf mathjax-3.2.2.tgz
	@cp -r _site/npm/package/es5/{tex-chtml.js,output} docs/_static/mathjax/

axe: _site/axe/package.json  ## axe-core, whose accessibility rules the tests run on every page of the site

_site/axe/package.json: Makefile
	@mkdir -p _site/npm _site/axe && cd _site/npm && rm -rf package && npm pack --silent axe-core@4.14.1 >/dev/null && tar xzf axe-core-4.14.1.tgz
	@cp _site/npm/package/axe.min.js _site/axe/ && cp _site/npm/package/package.json $@

clean:  ## remove what can be made again (.venv stays)
	@rm -rf _proc _stage _site build .pytest_cache .ruff_cache .hypothesis

# The environment is keyed by what it is made from and by where it stands (scripts in it name its path), so a second call starts at
# once, and a moved or copied checkout gets a new one.
.venv/ready: pyproject.toml setup.py constraints.txt Makefile
	@key="$$(cat pyproject.toml setup.py constraints.txt | cksum) $$PWD"; \
	if [ -f $@ ] && [ "$$(cat $@)" = "$$key" ] && [ -x $(BIN)/python ]; then touch $@; exit 0; fi; \
	py=; for p in "$(PYTHON)" python3 python3.13 python3.12 python3.11; do \
	  if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then py=$$p; break; fi; done; \
	if [ -z "$$py" ]; then echo "reasonlab needs Python 3.11 or newer; here $(PYTHON) is $$({ "$(PYTHON)" --version || echo missing; } 2>/dev/null | head -n 1). Install one, or say where: make PYTHON=/path/to/python3.11" >&2; exit 2; fi; \
	if ! "$$py" -c 'import venv, ensurepip' 2>/dev/null; then echo "$$py cannot make virtual environments: install its venv package (Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 2; fi; \
	if [ "$$(cat .venv/home 2>/dev/null || echo "$$PWD")" != "$$PWD" ]; then rm -rf .venv; fi; \
	echo "Making .venv (a few minutes, once)"; \
	[ -x $(BIN)/python ] || "$$py" -m venv .venv; \
	$(BIN)/python -m pip install -qq -c constraints.txt -e '.[dev]'; \
	echo "$$PWD" > .venv/home; echo "$$key" > $@
