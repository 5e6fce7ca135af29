# Two commands matter: `make up` and `make test`. Both bring the container engine up by themselves.

PYTHON ?= python3
VENV := .venv
DEVENV := $(VENV)/bin/devenv
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help up down test check unit integration bench clean

help: ## Show this help
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

up: $(INSTALLED) ## Install, bring the engine up, start all four services, wire them
	@$(DEVENV) doctor --fix
	@$(DEVENV) up

down: $(INSTALLED) ## Remove the services; their data stays
	@$(DEVENV) down

test: check unit integration ## Run everything: lint, types, unit and integration tests

check: $(INSTALLED) ## Lint and type-check
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

unit: $(INSTALLED) ## Run the tests that need no engine
	@$(VENV)/bin/pytest tests/unit

integration: $(INSTALLED) ## Run the tests against the real engine and the real services
	@$(DEVENV) doctor --fix
	@$(VENV)/bin/pytest tests/integration

bench: $(INSTALLED) ## Measure against docker compose; writes docs/benchmarks.md and .json
	@$(DEVENV) doctor --fix
	@$(VENV)/bin/python -m tests.bench

clean: ## Remove what was installed and made here; containers and data stay
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache

# Debian's python3 may come without the venv module: say so before it fails in its own words.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "cannot install devenv: $(PYTHON) is older than 3.11; run 'make PYTHON=python3.12 …'" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || \
		{ echo "cannot make a virtual environment: run 'apt-get install python3-venv'" >&2; exit 1; }
	@echo "installing into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --editable '.[dev]'
	@touch $@
