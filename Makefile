# Everything runs in .venv, which the first target that needs it makes.
# Options: PYTHON=python3.12 picks the interpreter; TESTS="tests/test_store.py -k crc" the tests,
# which run in one process then, else in WORKERS=2 processes, a file of tests in one of them.

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
LOCK_VENV := build/lock
TESTS ?=
WORKERS ?= 2

.PHONY: help setup demo demo-again test lint check nightly bench lock clean
.DELETE_ON_ERROR:

help:
	@echo "make demo        set up, simulate data, train RJCMA, evaluate, predict (minutes)"
	@echo "make demo-again  the same, but train anew"
	@echo "make test        set up and run the tests; TESTS=... chooses"
	@echo "make lint        ruff and mypy"
	@echo "make check       lint and test"
	@echo "make nightly     every table of the papers on tiny data, to see that each one runs (an hour)"
	@echo "make bench       emojax against PyTorch on this machine; OPTIONS=--quick for a first look"
	@echo "make lock        resolve requirements.lock anew from pyproject.toml"
	@echo "make clean       delete what make built, but neither stores nor runs"

# ---- Environment -------------------------------------------------------------------------------

setup: $(INSTALLED)

# The first of these that is a Python >= 3.11 able to make virtual environments.
PYTHON_CANDIDATES := $(or $(PYTHON),python3 python3.12 python3.11 python3.13 python)
PYTHON_TEST := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

$(INSTALLED): requirements.lock pyproject.toml
	@if ! $(PY) -c '$(PYTHON_TEST)' 2>/dev/null; then \
	  found=; for python in $(PYTHON_CANDIDATES); do \
	    if $$python -c '$(PYTHON_TEST)' 2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "error: emojax needs Python >= 3.11 with the venv module; tried: $(PYTHON_CANDIDATES)." >&2; \
	    echo "  Install one (Debian, Ubuntu: apt install python3 python3-venv), or name one:" >&2; \
	    echo "  make setup PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$($$found --version)"; \
	  $$found -m venv --clear $(VENV); \
	fi
	@echo "Installing the locked requirements into $(VENV) (about half a minute)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# uv resolves for all platforms and Pythons at once; it is needed for nothing else.
lock:
	@test -x $(PY) || $(MAKE) setup
	@test -x $(LOCK_VENV)/bin/uv || { $(PY) -m venv $(LOCK_VENV) && \
	  $(LOCK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv; }
	$(LOCK_VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	  --extra dev --generate-hashes --no-header --no-annotate --no-emit-index-url \
	  --output-file requirements.lock pyproject.toml
	@$(MAKE) --no-print-directory setup
	@$(PY) -m pytest -q tests/test_project.py -k lock

# ---- Checks ------------------------------------------------------------------------------------

test: setup
	$(PY) -m pytest $(or $(TESTS),-n $(WORKERS) --dist loadfile)

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

check: lint test

# ---- What is too long for CI -------------------------------------------------------------------
# Every table and curve of the five papers is trained, scored and written once, on simulated data
# and in networks too small to say anything about the systems. Interrupted, it goes on.

NIGHTLY_STORE := stores/nightly
NIGHTLY_STREAMS := vggface compare_lld egemaps fan deepspectrum openpose ir50 vggish logmel bert \
  eff raf_db affectnet8 arcface wav2vec2_emotion
comma := ,
empty :=
space := $(empty) $(empty)

nightly: setup
	@[ -e $(NIGHTLY_STORE) ] || $(PY) -m data.synthetic --out=$(NIGHTLY_STORE) --size=tiny \
	  --train_videos=16 --tasks=va,expr,au --folds=blocks:6 \
	  --streams=$(subst $(space),$(comma),$(strip $(NIGHTLY_STREAMS))) \
	  $(NIGHTLY_STREAMS:%=--width=%=64)
	$(PY) -m emojax.tables --all --store=$(NIGHTLY_STORE) --budget=tiny --seeds=1 --trials=2 \
	  --workdir=runs/nightly

bench: setup
	$(PY) -m benchmarks.bench --out=runs/bench $(OPTIONS)

# ---- Demo --------------------------------------------------------------------------------------
# Data are built again only when their options or the simulator change, and the model is trained
# again only when the data or the config do. An interrupted training is continued.

DEMO_STORE := stores/demo
DEMO_RUN := runs/demo
DEMO_OPTIONS := --preset=plain --size=demo
SIMULATOR := $(filter-out data/epic% data/meld.py data/npz.py,$(wildcard data/*.py))

demo: $(DEMO_RUN)/.trained
	@$(PY) -m emojax.evaluate --checkpoint=$(DEMO_RUN) --partition=test
	@$(PY) -m emojax.predict --checkpoint=$(DEMO_RUN) --out=$(DEMO_RUN)/predictions
	@echo
	@echo "The demo is complete."
	@echo "  report and curves   $(DEMO_RUN)/validation/report.html, $(DEMO_RUN)/test/report.html"
	@echo "  pictures            $(DEMO_RUN)/validation/*.png"
	@echo "  predictions         $(DEMO_RUN)/predictions"
	@echo "  scalars             $(DEMO_RUN)/metrics.csv"
	@echo "  TensorBoard         $(VENV)/bin/tensorboard --logdir $(DEMO_RUN)"
	@echo "  train it anew       make demo-again"

demo-again:
	@rm -f $(DEMO_RUN)/.begun $(DEMO_RUN)/.trained
	@$(MAKE) --no-print-directory demo

$(DEMO_STORE).options: FORCE
	@mkdir -p $(@D)
	@echo '$(DEMO_OPTIONS)' | cmp -s - $@ || echo '$(DEMO_OPTIONS)' > $@
FORCE:

$(DEMO_STORE)/dataset.json: $(DEMO_STORE).options $(SIMULATOR) | setup
	@[ ! -e $(DEMO_STORE) ] || echo "The simulator or its options changed: building $(DEMO_STORE) anew"
	@rm -rf $(DEMO_STORE)
	@$(PY) -m data.synthetic --out=$(DEMO_STORE) $(DEMO_OPTIONS)

# A run of other data or another config cannot be continued, so it makes room.
$(DEMO_RUN)/.begun: $(DEMO_STORE)/dataset.json configs/rjcma.py
	@[ ! -e $(DEMO_RUN) ] || echo "The data or configs/rjcma.py changed: training $(DEMO_RUN) anew"
	@rm -rf $(DEMO_RUN)
	@mkdir -p $(@D)
	@touch $@

$(DEMO_RUN)/.trained: $(DEMO_RUN)/.begun
	@$(PY) -m emojax.train --config=configs/rjcma.py:demo --workdir=$(DEMO_RUN) \
	  --config.data.store=$(DEMO_STORE)
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
