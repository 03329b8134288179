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
# Of `make fuzz`: how long on each capability, and which calls; a finding names its own call, whatever the seed.
MINUTES ?= 10
SEED ?= $(shell date +%s)
FUZZ_ARGS ?=
CAPABILITIES ?= default avx2 avx512
# What `make wheel` compiles for: x86_64 or aarch64, by CXX, or by Debian's cross compiler where the machine is another.
MACHINE := $(shell uname -m)
PLATFORM ?= $(MACHINE)
# Of `make check-wheel`, for instance --torch 2.13.0 --python python3.13; empty, all that pip and the path have.
CHECK_ARGS ?=
# Of a shell's $$capability, whether $$run has it: a cap above what the machine has would run the widest once more.
has = has=$$($$run -c 'import torchconv; print(torchconv.cpu_capability())'); \
	if [ "$$has" != $$capability ]; then echo "this machine has no $$capability"; continue; fi
# Of `make sanitize`: address (and undefined behaviour), or thread.
SANITIZER ?= address

python := $(VENV)/bin/python
# For ninja, which the build runs if it is on the path.
export PATH := $(abspath $(VENV))/bin:$(PATH)
install := $(python) -m pip install --quiet --disable-pip-version-check --constraint requirements/constraints.txt
index := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# What names torch's build, of which torchvision is to be too, where there is one: +cpu, +cu130, or nothing.
build_of_torch = $$($(python) -c 'from torch.version import __version__ as v; print("+" * ("+" in v) + v.partition("+")[2])')
# A file that is there when a step was done; torch's holds its version, so that another TORCH starts over.
done := $(VENV)/.done
torch := $(done)/$(TORCH)
# The wheel in dist/ that holds what would be compiled here, if there is one: its name has the digest of the sources.
wheel := $(if $(wildcard dist/*.whl),$(shell $(PYTHON) -m tools.wheel --fitting))

.DEFAULT_GOAL := help
.PHONY: help train test test-all fuzz sanitize lint bench build wheel check-wheel clean
.DELETE_ON_ERROR:

help:
	@echo "make train    set up $(VENV), build, train LeNet-5 on real digits to 97% or more (TRAIN_ARGS='fit --config ...' for another)"
	@echo "make test     set up $(VENV), build, run the tests but the slow ones (PYTEST_ARGS='-k conv' to choose)"
	@echo "make test-all the tests, then the slow ones, then properties on more examples"
	@echo "make fuzz     draw calls of every operator on each capability (MINUTES=$(MINUTES), SEED=..., FUZZ_ARGS=...)"
	@echo "make sanitize the kernels' tests and the fuzzer in a build that checks addresses and undefined behaviour"
	@echo "              (SANITIZER=thread: that finds data races)"
	@echo "make bench    time the operators against the built-in ones, and check them (BENCH_ARGS='--quick' or others)"
	@echo "make lint     ruff, clang-format and mypy"
	@echo "make build    compile the library in place, against $(TORCH)"
	@echo "make wheel    compile the wheel for manylinux_2_28 into dist/, from where train and test take it while it fits"
	@echo "              (PLATFORM=aarch64: by a cross compiler)"
	@echo "make check-wheel  try it beside every torch and Python there is (CHECK_ARGS='--torch 2.13.0')"
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

fuzz: build
	set -e; for capability in $(CAPABILITIES); do \
		run="env TORCHCONV_CPU_CAPABILITY=$$capability $(python)"; $(has); \
		$$run -m tests.fuzz --seed $(SEED) --seconds $$(($(MINUTES) * 60)) $(FUZZ_ARGS); \
	done

# A build of its own, beside the checkout's, from whose folder everything is run so that it is what is imported.
sanitized = build/sanitize-$(SANITIZER)
kernel_tests := conv conv_integers pool fft winograd depthwise norm lrn local transforms transform_conv bfloat16 narrow
parallel_tests := conv pool winograd depthwise norm lrn local transform_conv
runtime_address := libasan.so libubsan.so
runtime_thread := libtsan.so
# Python and torch leak by design, and a size that memory refuses is an error of theirs, not the end.
options_address := ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=16 UBSAN_OPTIONS=print_stacktrace=1
options_thread := TSAN_OPTIONS=halt_on_error=1:allocator_may_return_null=1:report_signal_unsafe=0:ignore_noninstrumented_modules=1
tests_address := $(kernel_tests)
tests_thread := $(parallel_tests)
# Where the processor has no AVX-512, its kernels are checked in registers of AVX2.
emulate := $(if $(shell grep -m1 -o avx512bw /proc/cpuinfo),,TORCHCONV_EMULATE_AVX512=1)
# Checks cost ten times a call's time.
fuzz_address := --calls 20000 --hang 100
fuzz_thread := --calls 2000 --threads 2 --hang 100

sanitize: $(done)/test
	$(emulate) TORCHCONV_SANITIZER=$(SANITIZER) $(python) setup.py --quiet build --build-base $(sanitized) --build-lib $(sanitized)/lib
	set -e; cd $(sanitized)/lib; for capability in $(CAPABILITIES); do \
		run="env LD_PRELOAD=$$(for l in $(runtime_$(SANITIZER)); do $(CXX) -print-file-name=$$l; done | paste -sd:) \
			$(options_$(SANITIZER)) TORCHCONV_CPU_CAPABILITY=$$capability PYTHONPATH=$(CURDIR) $(abspath $(python))"; $(has); \
		$$run -m pytest -q -x -p no:cacheprovider -p no:xdist \
			-m 'not slow' $(foreach t,$(tests_$(SANITIZER)),$(wildcard $(CURDIR)/tests/*/test_$(t).py)); \
		$$run -m tests.fuzz --seed $(SEED) $(fuzz_$(SANITIZER)) $(FUZZ_ARGS); \
	done

lint: $(done)/train $(done)/test
	$(python) -m ruff check
	$(python) -m ruff format --check
	find csrc -name '*.cpp' -o -name '*.h' -o -name '*.inl' | xargs $(VENV)/bin/clang-format --dry-run --Werror
	$(python) -m mypy

bench: build
	$(python) -m benchmarks $(BENCH_ARGS)

build: torchconv/_C.abi3.so

torchconv/_C.abi3.so: $(torch) setup.py $(shell find csrc -type f) $(wheel)
ifneq ($(wheel),)
	@echo "taking the compiled library from $(wheel)"
	@$(PYTHON) -c 'import zipfile; zipfile.ZipFile("$(wheel)").extract("$@")'
else
	$(python) setup.py --quiet build_ext --inplace
endif
	@touch $@

wheel: $(done)/wheel
	$(if $(filter-out $(MACHINE),$(PLATFORM)),CXX=$(PLATFORM)-linux-gnu-g++) $(python) -m tools.wheel --platform $(PLATFORM)

check-wheel:
	$(PYTHON) -m tools.check_wheel $(CHECK_ARGS)

$(done)/wheel: $(torch) requirements/wheel.txt
	$(install) --requirement requirements/wheel.txt
	@touch $@

$(done)/train: $(torch) requirements/train.txt requirements/constraints.txt
	$(install) $(index) --no-deps "$(TORCHVISION)$(build_of_torch)" 2>/dev/null \
		|| $(install) $(index) --no-deps '$(TORCHVISION)'
	$(install) --requirement requirements/train.txt
	@touch $@

$(done)/test: $(torch) requirements/test.txt requirements/constraints.txt
	$(install) --requirement requirements/test.txt
	@touch $@

$(torch): requirements/build.txt | $(VENV)/bin/python
ifeq ($(wheel),)
	@command -v $(CXX) >/dev/null || { echo "No C++ compiler: '$(CXX)' is not on the path; install g++ 12 or newer, or name another with CXX=" >&2; exit 1; }
	@$(python) -c 'import os, sys, sysconfig as s; sys.exit(not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))' \
		|| { echo "No Python.h for $(PYTHON): install Python's development headers (python3-dev), or name another with PYTHON=" >&2; exit 1; }
endif
	$(install) $(index) '$(TORCH)' --requirement requirements/build.txt
	@rm -rf $(done) build torchconv/_C*.so
	@mkdir -p $(done) && touch '$@'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' \
		|| { echo "Python 3.10 to 3.14 is needed, and $(PYTHON) is another (or is not there): name one with PYTHON=" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment: install its venv module (python3-venv)" >&2; exit 1; }

clean:
	rm -rf build dist *.egg-info torchconv/_C*.so
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find * -name __pycache__ -prune -exec rm -rf {} +
