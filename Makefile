# Every target makes what it needs: one shared .venv with the tested set of constraints.txt.
PYTHON ?= python3
STAMP := .venv/.installed

.PHONY: demo test test-all check bench vllm-env clean

demo: $(STAMP)
	.venv/bin/seektune demo $(ARGS)

test: $(STAMP)
	scripts/test

test-all: $(STAMP)
	scripts/test --all

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
	rm -rf .venv .venv-vllm runs
