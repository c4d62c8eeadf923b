# The course in a few commands. Each sets up .venv first if that has not been done.
PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready

.PHONY: help finetune test test-browser lab book notebooks samples base lint clean

help:
	@echo "make finetune   fine-tune the tiny FastVLM on data_samples/ (about 4 minutes of training on 2 CPU cores)"
	@echo "make test       run the tests and the notebooks;  make test-browser: the notebooks in JupyterLab, in Chromium"
	@echo "make lab        open the course in JupyterLab"
	@echo "make book       render the course, with its stored outputs, to build/book/index.html"
	@echo "make notebooks  run notebooks/source/**/*.py and write notebooks/**/*.ipynb"
	@echo "make samples    draw the sample clips again;  make base: train the tiny base again"
	@echo "make lint       ruff and mypy"

$(READY): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

finetune: $(READY)
	PYTHON=$(PY) bash scripts/finetune_video.sh

test: $(READY)
	$(PY) -m pytest
	$(PY) -m pytest --nbval notebooks/

test-browser: $(READY)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable ".[browser]"
	$(PY) -m pytest -m browser tests/browser

lab: $(READY)
	$(PY) -m jupyter lab notebooks/

book: $(READY)
	$(PY) -m sphinx -q -E -W -d build/doctrees -c docs . build/book

notebooks: $(READY)
	$(PY) scripts/build_notebooks.py

samples: $(READY)
	$(PY) -m fvv_lib.samples data_samples

base: $(READY)
	$(PY) -m fvv_lib.tiny data_samples/tiny-fastvlm

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

clean:
	rm -rf $(VENV) output build *.egg-info
