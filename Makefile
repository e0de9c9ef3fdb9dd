# make demo      sets up everything and runs the loop; SEED=folder REVIEWER=rules ROUNDS=n PAIRS=1 LABELING=label-studio
#                HOME_DIR=folder
# make test      sets up everything and passes the tests
# make check     before a commit: `make static`, `make docs` and `make quick`
# make docs      builds the documentation into site/, with every link checked; `make reference` writes generated pages anew
# make screenshots  takes the pictures of the documentation from real instances; ARGS="--preset micro" is quick
# make static    without tests: `make lint`, `make types`, the contracts of imports, the pages' JavaScript
# make lint      style and formatting; make types: mypy
# make quick     the tests that are not slow; TESTS=paths
# make style-report  measures the style of code and documents beside the goals
# make bench     prints measurements, in some minutes; BENCH=name one of tests/benchmarks, ARGS its options
# make coverage  the tests, and how much of the instance they reach
# make lock      writes the requirements*.lock files anew from pyproject.toml; ARGS=--upgrade takes the newest versions
# make image-digests  pins the images of docker/ to their registry's present digests; needs docker and the network
# make sbom      writes sbom.json (CycloneDX), what is installed
# make audit     looks the locked versions up among known vulnerabilities, over the network

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/ready
STUDIO := $(VENV)/label-studio-ready
VENV_DOCS ?= .venv-docs
HOME_DIR ?= .home
# The locks are whole, so that pip resolves nothing; a file whose hash is not in them is not installed.
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps
UV_VERSION := 0.13.9
CYCLONEDX_VERSION := 7.5.0
PIP_AUDIT_VERSION := 2.10.1
# One process more than there are cores: many tests wait for something. A file's tests stay together,
# since they share fixtures; tests/conftest.py puts the files with slow tests first.
PROCESSES = $(shell $(PYTHON) -c 'import os; print(min(8, (os.cpu_count() or 1) + 1))')
TOGETHER = OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
BENCH ?= first_page images_in latent_cache review_queue snapshot_freeze training_rate

DEMO := --home "$(HOME_DIR)" $(if $(SEED),--seed "$(SEED)") $(if $(REVIEWER),--reviewer $(REVIEWER)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(PAIRS),--pairs) $(if $(LABELING),--labeling $(LABELING))

.PHONY: demo test check static lint types imports javascript docs reference screenshots style-report quick coverage bench lock image-digests sbom audit clean setup
.DEFAULT_GOAL := demo

demo: $(READY) $(if $(LABELING),$(STUDIO))
	@$(VENV)/bin/layerloop demo $(DEMO)

test: $(READY) $(STUDIO)
	@$(TOGETHER) $(TESTS)

check: static docs quick

static: lint types imports javascript

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(READY) $(STUDIO)
	$(PY) -m mypy

imports: $(READY) $(STUDIO)
	$(VENV)/bin/lint-imports --no-cache

javascript:
	@if command -v npm > /dev/null; then npm ci --silent --no-audit --no-fund && npm run --silent check; \
	else echo "tsc left out: it needs npm"; fi

# The generated pages must equal the code; the build needs no network and its pages name no other server.
docs: $(READY) $(VENV_DOCS)/ready
	@$(PY) .ci/docs/reference.py --check
	@NO_MKDOCS_2_WARNING=1 $(VENV_DOCS)/bin/python -m mkdocs build --strict --quiet
	@$(PY) .ci/docs/check_site.py site

reference: $(READY)
	@$(PY) .ci/docs/reference.py

screenshots: $(READY)
	@$(PY) .ci/docs/screenshots.py $(ARGS)

style-report: $(READY)
	@$(PY) .ci/style_report.py $(ARGS)

$(VENV_DOCS)/ready: requirements-docs.lock
	@$(PYTHON) -m venv --clear $(VENV_DOCS)
	@$(VENV_DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-docs.lock
	@touch $(VENV_DOCS)/ready

quick: $(READY) $(STUDIO)
	$(TOGETHER) -m "not slow" $(TESTS)

coverage: $(READY) $(STUDIO)
	@$(PY) -m pytest -q --cov=curation --cov-report=term-missing:skip-covered $(TESTS)

bench: $(READY) $(STUDIO)
	@for name in $(BENCH); do echo "== $$name"; $(PY) -m tests.benchmarks.$$name $(ARGS) || exit 1; done

setup: $(READY) $(STUDIO)

# The stamp is made last, so that a set-up that was broken off begins again and a finished one is not repeated.
$(READY): requirements.lock requirements-cuda.lock pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: $(PYTHON) is older than Python 3.11" >&2; \
	    echo "hint: install a newer one and say: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || { \
	    echo "error: $(PYTHON) cannot make virtual environments" >&2; \
	    echo "hint: on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "setting up $(VENV); the first time takes some minutes" >&2
	@$(PY) -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@sed -n '/^torch==/,/[^\\]$$/p' requirements.lock > $(VENV)/torch.lock
	@$(INSTALL) --no-index -r $(VENV)/torch.lock > /dev/null 2>&1 || true  # a build at hand, for CPUs, goes before the index's
	@$(INSTALL) -r requirements.lock
	@! $(PY) -c 'import importlib.metadata as m, sys; sys.exit(not any("nvidia" in one for one in m.requires("torch")))' \
	    || $(INSTALL) -r requirements-cuda.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

# Label Studio's client, for those who use it. Without dependencies: its converters, which nothing here calls,
# want an OpenCV older than ours.
$(STUDIO): requirements-label-studio.lock $(READY)
	@$(INSTALL) -r requirements-label-studio.lock
	@touch $(STUDIO)

# uv resolves for all platforms at once, from metadata alone: no gigabytes of CUDA are downloaded.
lock:
	@$(PYTHON) -m venv --clear .venv-lock
	@.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@.venv-lock/bin/python .ci/lock.py $(ARGS)
	@rm -rf .venv-lock

image-digests:
	@$(PYTHON) .ci/image_digests.py

# Needs no network once cyclonedx-bom is there: it describes what is installed.
sbom: $(READY)
	@test -x .venv-sbom/bin/cyclonedx-py || { $(PYTHON) -m venv .venv-sbom && .venv-sbom/bin/python -m pip install \
	    --quiet --disable-pip-version-check cyclonedx-bom==$(CYCLONEDX_VERSION); }
	@.venv-sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o sbom.json $(PY)

# Needs the network; it fails where it could not look, and not only where it finds something.
audit:
	@test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit && .venv-audit/bin/python -m pip install \
	    --quiet --disable-pip-version-check pip-audit==$(PIP_AUDIT_VERSION); }
	@.venv-audit/bin/python .ci/audit.py requirements.lock requirements-label-studio.lock

clean:
	rm -rf $(VENV) $(VENV_DOCS) .venv-lock .venv-sbom .venv-audit site
