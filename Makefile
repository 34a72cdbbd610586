# SPDX-License-Identifier: Apache-2.0
# Each target installs what it needs first, and does so only once.

export PATH := $(PATH):/usr/sbin:/sbin

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup system bpf demo test test-slow fuzz check format clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(READY)  ## install the system packages, the virtual environment and the BPF objects that are missing

system:
	@tools/system-packages

# pip compiles the BPF objects too, by the build hook in hatch_build.py
$(READY): pyproject.toml hatch_build.py | system
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

bpf: setup  ## compile the BPF programs that changed into src/poise/objects
	@$(BIN)/python hatch_build.py

demo: bpf  ## show poise at work between network namespaces of this machine (as root)
	$(BIN)/poise demo

test: bpf  ## run the tests (as root: all of them)
	$(BIN)/pytest -m 'not slow' -n 2 --dist loadfile

# 5 is pytest's "no such tests"
test-slow: bpf  ## run the slow tests
	$(BIN)/pytest -m slow || [ $$? -eq 5 ]

PACKETS ?= 1000000

fuzz: bpf  ## run PACKETS damaged packets through the balancer, and check what must hold (as root)
	$(BIN)/python -m tests.bpf.fuzz $(PACKETS)

check: setup  ## check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: setup  ## format the Python files and mend what ruff can mend
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

clean:  ## remove what was built, except for the virtual environment
	rm -rf __pycache__ build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache src/poise/objects/*.bpf.o
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
