# Every target makes what it needs: one shared .venv with the tested set of constraints.txt.
PYTHON ?= python3
STAMP := .venv/.installed

.PHONY: demo test test-all check bench vllm-env triton-env clean

demo: $(STAMP)
	.venv/bin/seektune demo $(ARGS)

test: $(STAMP)
	scripts/test

test-all: $(STAMP) triton-env
	scripts/test --all

# NVIDIA's Triton server and what its models need, apart: it needs numpy 1.
triton-env: .venv-triton/.installed

.venv-triton/.installed: pyproject.toml constraints.txt scripts/triton-env
	PYTHON=$(PYTHON) scripts/triton-env

check: $(STAMP)
	scripts/check

bench: $(STAMP)
	scripts/bench

# For the tests of `export --to vllm`, which `make test-all` leaves out without it.
vllm-env:
	PYTHON=$(PYTHON) scripts/vllm-env

$(STAMP): pyproject.toml constraints.txt scripts/install
	PYTHON=$(PYTHON) scripts/install
	touch $@

clean:
	rm -rf .venv .venv-vllm .venv-triton runs
