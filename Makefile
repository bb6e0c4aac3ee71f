# The environment makes itself: `make test` on a bare machine needs Python ≥ 3.11, make and a package registry.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

PLAIN := .venv-plain

.PHONY: demo test test-all test-install check bench clean

demo: $(READY)  ## Train on real digits, generate, restore, report: about three minutes on two cores.
	$(BIN)/energyscape train digits-pcd
	$(BIN)/energyscape sample runs/digits-pcd --n 100 --out runs/digits-pcd/samples.png
	$(BIN)/energyscape report runs/digits-pcd
	@echo "open runs/digits-pcd/report.html"

test: $(READY)  ## The default suite.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-all: $(READY)  ## Also the long statistical and training runs.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "slow or not slow"

test-install:  ## Build the wheel, install it alone into a fresh environment, and run every command there.
	rm -rf $(PLAIN) dist
	$(PYTHON) -m venv $(PLAIN)
	$(PLAIN)/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PLAIN)/bin/python -m pip install --quiet --constraint constraints.txt dist/energyscape-*.whl
	$(PLAIN)/bin/python tests/plain_install.py

check: $(READY)  ## Lint, format, types, tests.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(MAKE) test

bench: $(READY)  ## Compare with peers: speed, then exact KL; adds them to the environment and takes two hours.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/steps.py
	$(BIN)/python benchmarks/ess.py
	$(BIN)/python benchmarks/truth.py
	$(BIN)/python benchmarks/peer_kl.py

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "energyscape needs Python 3.11 or later; give it with make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:  ## Remove the environment; runs stay.
	rm -rf .venv $(PLAIN)
