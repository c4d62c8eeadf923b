# The commands of the course. Each one sets up .venv first if needed.
PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
# The address that `git clone` gets the course from on Colab and Kaggle. Set it if you publish the course.
REPOSITORY ?=

TRAINED := output/tiny-fastvlm-video
FILES   := config.json fvv_config.json generation_config.json model.safetensors \
           tokenizer.json tokenizer_config.json processor_config.json chat_template.jinja

.PHONY: help finetune test test-browser lab book hosted notebooks samples base trained flags results lint clean

help:
	@echo "make finetune   fine-tune the tiny FastVLM on data_samples/ (about 4 minutes of training on 2 CPU cores)"
	@echo "make test       run the tests and the notebooks;  make test-browser: the notebooks in JupyterLab in Chromium"
	@echo "make lab        open the course in JupyterLab"
	@echo "make book       render the course, with its stored outputs, to build/book/index.html"
	@echo "make hosted     write copies of the notebooks for Colab and Kaggle; see docs/guide/run.md"
	@echo "make notebooks  run notebooks/source/**/*.py and write notebooks/**/*.ipynb"
	@echo "make samples    regenerate the sample clips;  make base: retrain the tiny base"
	@echo "make trained    run make finetune and copy its result to data_samples/tiny-fastvlm-video"
	@echo "make flags      update the flags of fvv finetune from the installed transformers"
	@echo "make results    write docs/benchmarks.md and the result rows of the README from benchmarks/results"
	@echo "make lint       run ruff, mypy and codespell"

$(READY): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

finetune: $(READY)
	rm -rf $(TRAINED)
	PYTHON=$(PY) bash scripts/finetune_video.sh

test: $(READY)
	$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder --nbval tests notebooks/

test-browser: $(READY)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable ".[browser]"
	$(PY) -m pytest -m browser tests/browser

lab: $(READY)
	$(PY) -m jupyter lab notebooks/

book: $(READY)
	$(PY) -m sphinx -q -E -W -d build/doctrees -c docs . build/book

hosted: $(READY)
	$(PY) scripts/host_notebooks.py "$(REPOSITORY)" build/hosted

notebooks: $(READY)
	$(PY) scripts/build_notebooks.py

samples: $(READY)
	$(PY) -m fvv_lib.course.samples data_samples

base: $(READY)
	$(PY) -m fvv_lib.course.tiny data_samples/tiny-fastvlm

trained: finetune
	mkdir -p data_samples/tiny-fastvlm-video
	cp $(addprefix $(TRAINED)/,$(FILES)) data_samples/tiny-fastvlm-video/

flags: $(READY)
	$(PY) scripts/build_flags.py

results: $(READY)
	$(PY) scripts/build_results.py

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m codespell_lib

clean:
	rm -rf $(VENV) $(TRAINED) build *.egg-info
