# `make` prints the targets. Each one that needs Python sets up .venv first, from pyproject.toml and constraints.txt.
# PYTHON names the interpreter .venv is made from:  make test PYTHON=python3.12

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PIP    := $(BIN)/python -m pip

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check bench clean venv

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

# ---- the demo: what a newcomer sees first ---------------------------------------------------------------------------

demo: $(READY) ## train on handwritten digits for a few minutes and draw some, in runs/demo
	$(BIN)/ddpm train digits --out runs/demo
	$(BIN)/ddpm sample runs/demo --seeds 0-63 --out runs/demo/samples.png
	$(BIN)/ddpm sample runs/demo --seeds 0-7 --progressive --out runs/demo/progressive.png
	$(BIN)/ddpm evaluate memorisation runs/demo --data digits:test --seeds 0-63 --steps 20 --out runs/demo

	@echo
	@echo "Look at runs/demo/samples.png, progressive.png, memorisation.png and loss.png. What to type next:"
	@echo "  $(BIN)/ddpm sample runs/demo --seeds 64-127 --out more.png"
	@echo "  $(BIN)/ddpm sample models/fashion-mnist --seeds 0-15 --steps 8 --out fashion.png"
	@echo "  $(BIN)/ddpm train small --data path/to/your/images --size 32 --dry-run"

# ---- the end of the demo --------------------------------------------------------------------------------------------

# Several threads on small tensors are slower than one, and change the last bits of sums.
test test-slow check: export OMP_NUM_THREADS = 1

test: $(READY) ## run the tests on two processes (minutes)
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations 30

test-slow: $(READY) ## run the slow tests and only these (up to 40 minutes)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow --timeout 2400

check: $(READY) ## lint, types, and the layers of the package
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest tests/test_structure.py

bench: $(READY) ## measure images per second on this machine
	$(BIN)/python benchmarks/throughput.py

clean: ## remove .venv, caches and build outputs; runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find . \( -path ./.git -o -path ./runs \) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# ---- the environment ------------------------------------------------------------------------------------------------

# A torch that is already in .venv stays, whatever build it is: the constraint on torch is then its own version.
define CONSTRAINTS
import sys
from importlib.metadata import PackageNotFoundError, version

lines = open("constraints.txt", encoding="utf-8").read().splitlines()
try:
    found = version("torch")  # the installed name with its local part, which torch.__version__ may spell otherwise
except PackageNotFoundError:
    found = None
if found:
    try:
        import torch
    except Exception as error:
        sys.exit(f"The torch {found} in .venv does not import ({error}): reinstall it, or run 'make clean' and try again.")
    if tuple(int(part) for part in found.split(".")[:2]) >= (2, 11):
        print(f"keeping torch {found}, already in .venv", file=sys.stderr)
        lines = [f"torch=={found}"] + [line for line in lines if not line.startswith("torch==")]
    else:
        print(f"torch {found} in .venv is older than 2.11 and will be replaced", file=sys.stderr)
print("\n".join(lines))
endef
export CONSTRAINTS

$(READY): pyproject.toml constraints.txt | venv
	@$(BIN)/python -W ignore -c "$$CONSTRAINTS" > $(VENV)/constraints.txt
	$(PIP) install --no-input --disable-pip-version-check -c $(VENV)/constraints.txt -e '.[dev]'
	@echo "$(CURDIR)" > $@

# Runs every time, costs a few hundredths of a second, and says what is wrong before anything else fails on it.
venv:
	@say() { echo "$$1" >&2; exit 1; }; \
	new='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if [ ! -e $(VENV) ] && [ ! -L $(VENV) ]; then \
	    $(PYTHON) -c '' 2>/dev/null || say "'$(PYTHON)' does not start: install Python 3.11 or newer, or name yours, as in 'make test PYTHON=python3.12'."; \
	    $(PYTHON) -c "$$new" || say "'$(PYTHON)' is $$($(PYTHON) --version 2>&1): ddpm needs Python 3.11 or newer; name one, as in 'make test PYTHON=python3.12'."; \
	    echo "setting up $(VENV): this happens once, and takes a few minutes"; \
	    $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); say "'$(PYTHON) -m venv' failed: install Python's venv module (on Debian and Ubuntu the package python3-venv), then try again."; }; \
	fi; \
	$(BIN)/python -c '' 2>/dev/null || say "$(VENV) is broken (its Python does not start): run 'make clean' and try again."; \
	$(BIN)/python -c "$$new" || say "$(VENV) holds $$($(BIN)/python --version 2>&1), but ddpm needs Python 3.11 or newer: run 'make clean' and try again."; \
	$(BIN)/python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("pip") is None)' || say "$(VENV) has no pip: run '$(BIN)/python -m ensurepip', or 'make clean', and try again."; \
	if [ -e $(READY) ] && [ "$$(cat $(READY))" != "$(CURDIR)" ]; then say "$(VENV) was set up in another folder: run 'make clean' and try again."; fi
