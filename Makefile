# All targets run in .venv, which the first target that needs it makes.
# Options: PYTHON=python3.12 selects the interpreter. TESTS="tests/test_store.py -k crc" selects tests
# and runs them in one process. Otherwise WORKERS=2 processes run all tests, file by file.
# Tests have three tiers, by their marks: those without a mark (make test); slow ones, which train
# several times or start commands (make test-all, CI); and nightly ones (make nightly).

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
LOCK_VENV := build/lock
TESTS ?=
WORKERS ?= 2

comma := ,
empty :=
space := $(empty) $(empty)

.PHONY: help setup demo demo-again test test-all lint check workflow nightly bench spread faults lock licences clean
.DELETE_ON_ERROR:

help:
	@echo "make demo        set up, simulate data, train, evaluate, predict (minutes)"
	@echo "make demo-again  the same, but train anew"
	@echo "make test        set up and run the quick tests (3 minutes); TESTS=... selects"
	@echo "make test-all    also the slow tests; COVERAGE=yes reports the covered lines"
	@echo "make lint        ruff and mypy"
	@echo "make check       lint and test-all"
	@echo "make workflow    annotations and feature files -> stores -> cross-validation -> submission,"
	@echo "                 on simulated data in Aff-Wild2's own form (40 minutes)"
	@echo "make nightly     kills, long videos and other long tests, then every table of the papers on"
	@echo "                 tiny data, to see that each one runs (an hour)"
	@echo "make bench       emojax beside PyTorch on this machine; OPTIONS=--quick for a quick trial"
	@echo "make spread      compare runs on 1 and 8 simulated devices, in 1 and 2 processes"
	@echo "make faults      damage files, kill commands, train for long: no data may be lost;"
	@echo "                 OPTIONS=--count=10 SOAK=--steps=1600 for a quick trial"
	@echo "make lock        resolve requirements.lock again from pyproject.toml"
	@echo "make licences    write docs/licences.md from the lock and the installed packages"
	@echo "make clean       delete the files that make built, but neither stores nor runs"

# ---- Environment -------------------------------------------------------------------------------

setup: $(INSTALLED)

# The first of these that is a Python >= 3.11 with venv.
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
	@echo "Installing the locked requirements into $(VENV) (one to three minutes)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# uv resolves for all platforms and Pythons at once. No other target needs it.
lock:
	@test -x $(PY) || $(MAKE) setup
	@test -x $(LOCK_VENV)/bin/uv || { $(PY) -m venv $(LOCK_VENV) && \
	  $(LOCK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv; }
	$(LOCK_VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	  --extra dev --generate-hashes --no-header --no-annotate --no-emit-index-url \
	  --output-file requirements.lock pyproject.toml
	@$(MAKE) --no-print-directory setup
	@$(MAKE) --no-print-directory licences
	@$(PY) -m pytest -q tests/test_project.py -k lock

licences: setup
	$(PY) docs/licences.py

# ---- Checks ------------------------------------------------------------------------------------

IN_PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Lists the least covered files first. Commands that tests start as processes are not measured.
# Before Python 3.12 measuring lines makes the tests a third slower, so CI leaves it out there.
test-all: export COVERAGE_CORE ?= $(shell $(PY) -c "import sys; print((\"ctrace\", \"sysmon\")[sys.version_info >= (3, 12)])" 2>/dev/null)
COVERED := $(VENV)/bin/coverage report --sort=cover --skip-covered | sed -n 1,27p; \
  echo "of all lines: $$($(VENV)/bin/coverage report --format=total) %"

test: setup
	$(PY) -m pytest $(or $(TESTS),$(IN_PARALLEL) -m "not slow and not nightly")

test-all: setup
	$(PY) -m pytest $(IN_PARALLEL) -m "not nightly" $(if $(COVERAGE),--cov --cov-report=)
	@$(if $(COVERAGE),$(COVERED))

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

check: lint test-all

# ---- The workflow of docs/aff_wild2.md, from end to end -----------------------------------------
# The two cross-validations of the papers: RJCMA on six folds, and TCN-Transformer on five folds of
# each of its three tasks. With Aff-Wild2 itself the first two commands are not needed, ROOT and the
# features are your own, and the variants are `folds`, `folds_expr` and `folds_au`.

WALK := runs/workflow
WALK_DATA := $(WALK)/aff_wild2
WALK_STREAMS := ir50 vggish bert eff affectnet8 raf_db wav2vec2_emotion
# Real features have the widths of emojax/specs.py and need no width=.
WALK_FRAMES := clock=frame,missing=zeros,width=64
WALK_FEATURES := --features=ir50=$(WALK_DATA)/features/ir50,$(WALK_FRAMES) \
  --features=vggish=$(WALK_DATA)/features/vggish,clock=pts,width=64 \
  --features=bert=$(WALK_DATA)/features/bert,$(WALK_FRAMES)
WALK_FACES := $(foreach name,eff affectnet8 raf_db,\
  --features=$(name)=$(WALK_DATA)/features/$(name),$(WALK_FRAMES))
WALK_SPEECH := --features=wav2vec2_emotion=$(WALK_DATA)/features/wav2vec2_emotion,clock=fps:50,missing=zeros,rate=50,width=64
WALK_READ := $(PY) -m data.aff_wild2 --annotations=$(WALK_DATA)/annotations \
  --timestamps=$(WALK_DATA)/timestamps
WALK_LISTS := $(WALK_DATA)/test_lists
WALK_TASKS := va expr au
# The lengths of the trainings; WALK_SHORT="--config.train.epochs=1" for a quick trial. A step of
# RJCMA's twelve replicas, on every frame, costs as much as many steps of TCN-Transformer's five, on
# sixths of a second.
WALK_SHORT :=
WALK_RJCMA := $(or $(WALK_SHORT),--config.train.epochs=4 --config.train.epoch_steps=20)
WALK_TCN := $(or $(WALK_SHORT),--config.train.epochs=4 --config.train.epoch_steps=60)

workflow: setup $(WALK_TASKS:%=$(WALK)/%.txt) $(WALK)/rjcma.txt
	$(PY) -m emojax.report $(WALK)/rjcma $(WALK_TASKS:%=$(WALK)/tcn_transformer_%) \
	  --out=$(WALK)/report.html

$(WALK_DATA)/.written: | setup
	rm -rf $(WALK)/simulated $(WALK_DATA)
	$(PY) -m data.synthetic --out=$(WALK)/simulated --size=demo \
	  --streams=$(subst $(space),$(comma),$(WALK_STREAMS)) $(WALK_STREAMS:%=--width=%=64)
	$(PY) -m data.write_aff_wild2 --store=$(WALK)/simulated --out=$(WALK_DATA)
	@touch $@

$(WALK)/store_va/dataset.json: $(WALK_DATA)/.written
	$(WALK_READ) --tasks=va --folds=blocks:6 $(WALK_FEATURES) --overwrite \
	  --test_list=$(WALK_LISTS)/Valence_Arousal_Estimation_Challenge_test_set_release.txt \
	  --out=$(WALK)/store_va

$(WALK)/store_all/dataset.json: $(WALK_DATA)/.written
	$(WALK_READ) --tasks=va,expr,au --folds=tcn_transformer $(WALK_FACES) $(WALK_SPEECH) --overwrite \
	  $(patsubst %,--test_list=%_Challenge_test_set_release.txt,$(addprefix $(WALK_LISTS)/,\
	  Valence_Arousal_Estimation Expression_Recognition Action_Unit_Detection)) \
	  --out=$(WALK)/store_all

$(WALK)/rjcma/crossval/scores.json: $(WALK)/store_va/dataset.json
	$(PY) -m emojax.crossval --config=configs/rjcma.py:simulated --workdir=$(WALK)/rjcma \
	  --config.data.store=$(WALK)/store_va --postprocess=smooth,clip $(WALK_RJCMA)

$(WALK)/tcn_transformer_%/crossval/scores.json: $(WALK)/store_all/dataset.json
	$(PY) -m emojax.crossval --config=configs/tcn_transformer.py:simulated$(patsubst _va,,_$*) \
	  --config.data.store=$(WALK)/store_all --workdir=$(WALK)/tcn_transformer_$* $(WALK_TCN)

$(WALK)/rjcma.txt: $(WALK)/rjcma/crossval/scores.json
	$(PY) -m emojax.predict --checkpoint=$(WALK)/rjcma --out=$(WALK)/rjcma/predictions \
	  --ensemble=ccc_centring --postprocess=smooth,clip \
	  --widths=$(WALK)/rjcma/crossval/postprocessing.json
	$(PY) -m emojax.submit --predictions=$(WALK)/rjcma/predictions --task=va \
	  --template=$(WALK_DATA)/templates/va.txt --out=$@

$(WALK_TASKS:%=$(WALK)/%.txt): $(WALK)/%.txt: $(WALK)/tcn_transformer_%/crossval/scores.json
	$(PY) -m emojax.predict --checkpoint=$(WALK)/tcn_transformer_$* \
	  --out=$(WALK)/tcn_transformer_$*/predictions
	$(PY) -m emojax.submit --predictions=$(WALK)/tcn_transformer_$*/predictions --task=$* \
	  --template=$(WALK_DATA)/templates/$*.txt --out=$@

.SECONDARY:

# ---- Targets that take too long for CI ---------------------------------------------------------
# Runs the tests marked "nightly", one at a time, because some measure time and memory. Then trains,
# scores and writes every table and curve of the five papers once, on simulated data and with networks
# too small to tell anything about the systems. A second call continues an interrupted one.

NIGHTLY_STORE := stores/nightly
NIGHTLY_STREAMS := vggface compare_lld egemaps fan deepspectrum openpose ir50 vggish logmel bert \
  eff raf_db affectnet8 arcface wav2vec2_emotion

nightly: setup
	$(PY) -m pytest -m nightly
	@[ -e $(NIGHTLY_STORE) ] || $(PY) -m data.synthetic --out=$(NIGHTLY_STORE) --size=tiny \
	  --train_videos=16 --tasks=va,expr,au --folds=blocks:6 \
	  --streams=$(subst $(space),$(comma),$(strip $(NIGHTLY_STREAMS))) \
	  $(NIGHTLY_STREAMS:%=--width=%=64)
	$(PY) -m emojax.tables --all --store=$(NIGHTLY_STORE) --budget=tiny --seeds=1 --trials=2 \
	  --workdir=runs/nightly

# Measures each system in a process of its own, because a process keeps its peak memory.
BENCH := $(PY) -m benchmarks.bench $(OPTIONS)
# Stops early if PyTorch is missing, before an hour of measurements. TORCH=no measures emojax alone.
TORCH := yes
bench: setup
	@test "$(TORCH)" = no || $(PY) -c "import torch" || { \
	  echo "error: make bench compares with PyTorch, which is not in $(VENV); either" >&2; \
	  echo "  $(PY) -m pip install torch==2.13.0   (CONTRIBUTING.md tells of a smaller build)" >&2; \
	  echo "  make bench TORCH=no                  (emojax alone)" >&2; exit 1; }
	for system in rjcma exptrm emma_net multiscale_tcn tcn_transformer; do \
	  $(BENCH) --parts=systems --systems=$$system --out=runs/bench/$$system || exit 1; done
	$(BENCH) --parts=replicas,feed,kernels,protocol,scaling --systems=rjcma --out=runs/bench/rest

# Writes the table of docs/spread.md; OPTIONS=--systems=rjcma measures one system.
spread: setup
	rm -rf runs/spread
	$(PY) -m benchmarks.spread --out=runs/spread $(OPTIONS)

# Damages files at random, sends SIGKILL at random moments, and watches a long training from outside.
# OPTIONS go to the first two parts, SOAK to the last. A part that finds a fault ends the target.
FAULTS := runs/faults
SOAK := --steps=4000
faults: setup
	@mkdir -p $(FAULTS)
	$(PY) -m benchmarks.faults.corruptions --count=1000 $(OPTIONS) > $(FAULTS)/corruptions.txt; \
	  status=$$?; cat $(FAULTS)/corruptions.txt; exit $$status
	$(PY) -m benchmarks.faults.kills --count=50 $(OPTIONS) > $(FAULTS)/kills.txt; \
	  status=$$?; cat $(FAULTS)/kills.txt; exit $$status
	$(PY) -m benchmarks.faults.kills --what=store,evaluation --count=10 $(OPTIONS) \
	  > $(FAULTS)/kills_writing.txt; \
	  status=$$?; cat $(FAULTS)/kills_writing.txt; exit $$status
	$(PY) -m benchmarks.faults.soak $(SOAK) --out=$(FAULTS)/soak
	@echo "results: $(FAULTS)/*.txt, $(FAULTS)/soak/soak.csv, $(FAULTS)/soak/soak.png"

# ---- Demo --------------------------------------------------------------------------------------
# The data are built again only if their options or the simulator change, and the model is trained
# again only if the data or the configuration change. An interrupted training is continued.

DEMO_STORE := stores/demo
DEMO_RUN := runs/demo
DEMO_OPTIONS := --preset=cross_cued --streams=ir50,vggish --width=ir50=32 --width=vggish=32 \
  --tasks=va --train_videos=2000 --validation_videos=40 --test_videos=40 \
  --min_seconds=15 --max_seconds=45
SIMULATOR := data/synthetic.py $(wildcard data/simulation/*.py)

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

# A run of other data or another configuration is deleted, because training cannot continue it.
$(DEMO_RUN)/.begun: $(DEMO_STORE)/dataset.json configs/tcn_transformer.py
	@[ ! -e $(DEMO_RUN) ] || echo "The data or configs/tcn_transformer.py changed: training $(DEMO_RUN) anew"
	@rm -rf $(DEMO_RUN)
	@mkdir -p $(@D)
	@touch $@

$(DEMO_RUN)/.trained: $(DEMO_RUN)/.begun
	@$(PY) -m emojax.train --config=configs/tcn_transformer.py:demo --workdir=$(DEMO_RUN) \
	  --config.data.store=$(DEMO_STORE)
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
