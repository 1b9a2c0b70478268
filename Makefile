PY ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test test-browser test-vllm test-llamacpp lint clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PY) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: install
	$(BIN)/clinprompt demo

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Needs a Chromium (Debian: apt-get install chromium).
test-browser: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "browser and not slow" tests/serving

# The engine has an environment of its own (3.4 GB). TORCH_INDEX: where torch's CPU wheels are; empty: pip's own settings.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
test-vllm: install
	$(PY) tests/serving/vllm_environment.py .venv-vllm $(TORCH_INDEX)
	CLINPROMPT_VLLM_PYTHON=$(CURDIR)/.venv-vllm/bin/python OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m vllm tests/serving

# llama.cpp as a wheel, and its converter from a source archive (130 MB).
test-llamacpp: install
	$(PY) tests/serving/llamacpp_environment.py .venv-llamacpp
	CLINPROMPT_LLAMACPP_PYTHON=$(CURDIR)/.venv-llamacpp/bin/python OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m llamacpp tests/serving

lint: install
	$(BIN)/ruff check src tests benchmarks pretraining
	$(BIN)/ruff format --check src tests benchmarks pretraining
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
