# make demo      sets up everything and runs the loop; SEED=folder REVIEWER=oracle ROUNDS=n PAIRS=1 DESK=label-studio
#                HOME_DIR=folder
# make test      sets up everything and passes the tests
# make check     what CI checks: style, types, laws of imports, the pages' JavaScript, and the quick tests
# make bench     prints figures, in some minutes; BENCH=name one of tests/benchmarks, ARGS its options
# make coverage  the tests, and how much of the house they reach
# make lock      writes requirements.lock and requirements-label-studio.lock anew from pyproject.toml

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/ready
STUDIO := $(VENV)/label-studio-ready
HOME_DIR ?= .home
# A process per core: half of the tests wait for something. A file's tests stay together, for what they share.
TOGETHER := OMP_NUM_THREADS=1 $(PY) -m pytest -q -n logical --maxprocesses 8 --dist loadfile
BENCH ?= first_page images_in latent_cache review_queue snapshot_freeze training_rate

DEMO := --home "$(HOME_DIR)" $(if $(SEED),--seed "$(SEED)") $(if $(REVIEWER),--reviewer $(REVIEWER)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(PAIRS),--pairs) $(if $(DESK),--desk $(DESK))

.PHONY: demo test check coverage bench lock clean setup
.DEFAULT_GOAL := demo

demo: $(READY) $(if $(DESK),$(STUDIO))
	@$(VENV)/bin/layerloop demo $(DEMO)

test: $(READY) $(STUDIO)
	@$(TOGETHER) $(TESTS)

check: $(READY) $(STUDIO)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-cache
	@if command -v npm > /dev/null; then npm ci --silent --no-audit --no-fund && npm run --silent check; \
	else echo "tsc left out: it needs npm"; fi
	$(TOGETHER) -m "not slow"

coverage: $(READY) $(STUDIO)
	@$(PY) -m pytest -q --cov=curation --cov-report=term-missing:skip-covered $(TESTS)

bench: $(READY) $(STUDIO)
	@for name in $(BENCH); do echo "== $$name"; $(PY) -m tests.benchmarks.$$name $(ARGS) || exit 1; done

setup: $(READY) $(STUDIO)

# The stamp is made last, so that a set-up that was broken off begins again and a finished one is not repeated.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: $(PYTHON) is older than Python 3.11" >&2; \
	    echo "hint: install a newer one and say: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || { \
	    echo "error: $(PYTHON) cannot make virtual environments" >&2; \
	    echo "hint: on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "setting up $(VENV); the first time takes some minutes" >&2
	@$(PY) -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

# The client of the other desk, for those who use it. Without dependencies: its converters, which nothing here calls,
# want an OpenCV older than ours.
$(STUDIO): requirements-label-studio.lock $(READY)
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-label-studio.lock
	@touch $(STUDIO)

lock:
	@$(PYTHON) -m venv --clear .venv-lock
	@.venv-lock/bin/python -m pip install --quiet --editable '.[train,dev]'
	@{ echo "# Every package of Layerloop, its training part and its tests, at the versions they were tested with."; \
	   echo "# Made by 'make lock'."; \
	   .venv-lock/bin/python -m pip list --format=freeze --exclude-editable --exclude pip | sed 's/+.*//'; \
	 } > requirements.lock
	@.venv-lock/bin/python -m pip install --quiet --editable '.[train,dev,label-studio]'
	@{ echo "# What Label Studio's client needs beside requirements.lock, for LAYERLOOP_DESK=label-studio+http://..."; \
	   echo "# Made by 'make lock', installed with --no-deps: its converters, which nothing here calls, want an older OpenCV."; \
	   .venv-lock/bin/python -m pip list --format=freeze --exclude-editable --exclude pip | sed 's/+.*//' \
	   | awk -F= 'NR == FNR { known[$$1]; next } !($$1 in known)' requirements.lock -; \
	 } > requirements-label-studio.lock
	@rm -rf .venv-lock

clean:
	rm -rf $(VENV) .venv-lock
