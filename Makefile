# `make image TEAM=cosml` and `make test` do their own set-up: a virtual environment in .venv, from requirements.lock, which is all
# that building images takes; tests and lint add requirements-test.lock to it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEW_ENOUGH := $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test

# Set, as in many containers, it would have imagebuild compiled again at each start, which then takes twice as long.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: image debian build tool-image unit test lint site bench soak bases clean parts locks
.DEFAULT_GOAL := help
.PHONY: help

help:
	@echo "make image TEAM=cosml   build, check and push a team's image (OPTIONS=... for more)"
	@echo "make tool-image         build imagebuild's own image, for jobs on Kubernetes (OPTIONS=... as for image)"
	@echo "make unit               unit tests but the slow ones, on all cores"
	@echo "make test               lint, types, all unit tests and the integration tests"
	@echo "make lint               ruff, mypy, deptry (declared dependencies) and vulture (dead code) alone"
	@echo "make site               docs/ as a site, in the folder site"
	@echo "make bench              timings, as ratios in one run"
	@echo "make locks              resolve both lockfiles anew (after a change of pyproject.toml; UPGRADE=1 for newer versions)"
	@echo "make soak MINUTES=10    attacks of every kind for so long: kills, full disks, registries that lie"
	@echo "make bases              builds on a stand-in of every kind of base, from a pin to a notebook that runs (as root, with docker)"
	@echo "make clean              remove .venv and .imagebuild"

# The locks pin every package by hash; where they come from is the business of this machine's pip configuration.
$(STAMP): requirements.lock pyproject.toml
	@$(NEW_ENOUGH) || { echo "error: Python 3.11 or newer is needed, $(PYTHON) is older"; \
	  echo "hint: make image TEAM=... PYTHON=/path/to/python3.11"; exit 3; }
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) scripts/environment.py $@ $^

$(TEST_STAMP): requirements-test.lock | $(STAMP)
	@echo "adding what tests need to $(VENV) (once)"
	@$(BIN)/python scripts/environment.py $@ $^

# What is locked stays as it is unless UPGRADE=1. The second lock holds the first: both are installed into one environment.
LOCK = $(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-annotate --allow-unsafe \
  --custom-compile-command "make locks" $(if $(UPGRADE),--upgrade)

locks: $(STAMP)
	@$(LOCK) pyproject.toml -o requirements.lock
	@$(LOCK) --extra test --constraint requirements.lock pyproject.toml -o requirements-test.lock

# Only the starter base needs it; as root it is installed, otherwise the program says what to do when it gets there.
parts:
	@command -v mmdebstrap >/dev/null || [ -d .imagebuild/registry/blobs ] || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || { \
	  echo "installing mmdebstrap (once)"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap; } >/dev/null || \
	  echo "mmdebstrap could not be installed; the starter base cannot be built without it" >&2; }

# On a fresh machine the environment is installed while Debian for the starter base is fetched and unpacked.
image:
	@test -n "$(TEAM)" || { echo "error: which team?"; echo "hint: make image TEAM=cosml"; exit 2; }
	@if [ -d .imagebuild/registry/blobs ]; then $(MAKE) --no-print-directory build; \
	elif [ -e $(STAMP) ]; then $(MAKE) --no-print-directory debian build; \
	else $(MAKE) --no-print-directory -j2 debian build QUIET_AFTER=$(STAMP); fi

debian:
	@! $(NEW_ENOUGH) 2>/dev/null || $(PYTHON) -m imagebuild.starter.debian $(TEAM) $(if $(QUIET_AFTER),--quiet-after $(QUIET_AFTER))

build: $(STAMP)
	@$(BIN)/imagebuild image $(TEAM) $(OPTIONS)

tool-image: $(STAMP) parts
	@scripts/tool-image.sh $(OPTIONS)

lint: $(TEST_STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "hint: $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/deptry --no-ansi .
	@$(BIN)/vulture

site: $(TEST_STAMP)
	@$(BIN)/python -m mkdocs build --strict --quiet

# Integration tests share a registry, an engine and a base: one after the other.
PARALLEL := -n auto --dist worksteal

unit: $(TEST_STAMP)
	@$(BIN)/python -m pytest $(PARALLEL) -m "not slow" tests/unit $(PYTEST_OPTIONS)

test: $(TEST_STAMP) parts lint
	@$(BIN)/python -m pytest $(PARALLEL) tests/unit $(PYTEST_OPTIONS)
	@$(BIN)/python -m pytest tests/integration $(PYTEST_OPTIONS)

bench: $(TEST_STAMP) parts
	@$(BIN)/python -m bench.pipeline
	@$(BIN)/python -m bench.verify
	@$(BIN)/python -m bench.docker
	@$(BIN)/python -m bench.members
	@$(BIN)/python -m bench.fleet --chart docs/fleet.svg
	@$(BIN)/python -m bench.cost
	@$(BIN)/python -m bench.locking
	@$(BIN)/python -m bench.catalogue

# Seeded: SOAK_OPTIONS="--seed 7 --json out.json" makes the attacks of an earlier run and writes what came of them.
MINUTES := 5
soak: $(TEST_STAMP) parts
	@$(BIN)/python -m bench.soak $(MINUTES) $(SOAK_OPTIONS)

# BASES_OPTIONS="--only kubeflow --step smoke" chooses.
bases: $(TEST_STAMP) parts
	@$(BIN)/python -m bench.bases $(BASES_OPTIONS)

clean:
	rm -rf $(VENV) .imagebuild site
