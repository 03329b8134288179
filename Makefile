# make train   sets up .venv, builds, and trains LeNet-5 through the operators of this project
# make test    the same set-up, then the tests (make test-all: the slow ones too)
# make help    the rest

PYTHON ?= python3
VENV ?= .venv

# The torch to build against, for instance TORCH=torch==2.12.0 TORCHVISION=torchvision==0.27.0.
TORCH ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0
# An index with CPU-only builds of torch, asked besides pip's own; empty, pip alone decides which build is taken.
TORCH_INDEX ?=

CXX ?= g++
export CXX
PYTEST_ARGS ?= -n 2
TRAIN_ARGS ?= fit
BENCH_ARGS ?=

python := $(VENV)/bin/python
# For ninja, which the build runs if it is on the path.
export PATH := $(abspath $(VENV))/bin:$(PATH)
install := $(python) -m pip install --quiet --disable-pip-version-check --constraint requirements/constraints.txt
# A file that is there when a step was done; torch's holds its version, so that another TORCH starts over.
done := $(VENV)/.done
torch := $(done)/$(TORCH)

.DEFAULT_GOAL := help
.PHONY: help train test test-all lint bench build clean
.DELETE_ON_ERROR:

help:
	@echo "make train    set up $(VENV), build, train LeNet-5 on real digits to 97% or more (TRAIN_ARGS='fit --config ...' for another)"
	@echo "make test     set up $(VENV), build, run the tests but the slow ones (PYTEST_ARGS='-k conv' to choose)"
	@echo "make test-all the tests, then the slow ones, then properties on more examples"
	@echo "make bench    time the operators against the built-in ones, and check them (BENCH_ARGS='--quick' or others)"
	@echo "make lint     ruff and mypy"
	@echo "make build    compile the library in place, against $(TORCH)"
	@echo "make clean    remove what was built, but not $(VENV)"
	@echo "Variables: PYTHON=$(PYTHON) VENV=$(VENV) TORCH=$(TORCH) TORCHVISION=$(TORCHVISION)"
	@echo "           TORCH_INDEX=$(TORCH_INDEX) (an index with CPU-only builds of torch) CXX=$(CXX) MAX_JOBS=$(MAX_JOBS)"

train: build $(done)/train
	$(python) -m train $(TRAIN_ARGS)

# Two processes of two threads each: those that wait should sleep, or they take the cores from those that work.
test: build $(done)/train $(done)/test
	OMP_WAIT_POLICY=passive $(python) -m pytest -m 'not slow' $(PYTEST_ARGS)

# The rest: what takes long, and the properties again on all of their examples.
test-all: test
	TORCHCONV_TESTS=all OMP_WAIT_POLICY=passive $(python) -m pytest -m 'slow or hypothesis' $(PYTEST_ARGS)

lint: $(done)/train $(done)/test
	$(python) -m ruff check
	$(python) -m mypy

bench: build
	$(python) -m benchmarks $(BENCH_ARGS)

build: torchconv/built_with.txt

torchconv/built_with.txt: $(torch) setup.py $(shell find csrc -type f)
	$(python) setup.py --quiet build_ext --inplace
	@touch $@

$(done)/train: $(torch) requirements/train.txt requirements/constraints.txt
	$(install) --no-deps '$(TORCHVISION)'
	$(install) --requirement requirements/train.txt
	@touch $@

$(done)/test: $(torch) requirements/test.txt requirements/constraints.txt
	$(install) --requirement requirements/test.txt
	@touch $@

$(torch): requirements/build.txt | $(VENV)/bin/python
	@command -v $(CXX) >/dev/null || { echo "No C++ compiler: '$(CXX)' is not on the path; install g++ 12 or newer, or name another with CXX=" >&2; exit 1; }
	@$(python) -c 'import os, sys, sysconfig as s; sys.exit(not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))' \
		|| { echo "No Python.h for $(PYTHON): install Python's development headers (python3-dev), or name another with PYTHON=" >&2; exit 1; }
	$(install) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) '$(TORCH)' --requirement requirements/build.txt
	@rm -rf $(done) build torchconv/_C*.so torchconv/built_with.txt
	@mkdir -p $(done) && touch '$@'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "Python 3.10 to 3.13 is needed, and $(PYTHON) is another (or is not there): name one with PYTHON=" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment: install its venv module (python3-venv)" >&2; exit 1; }

clean:
	rm -rf build dist *.egg-info torchconv/_C*.so torchconv/built_with.txt
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find * -name __pycache__ -prune -exec rm -rf {} +
