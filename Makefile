# Two commands matter: `make up` and `make test`. Both bring the container engine up by themselves.

PYTHON ?= python3
VENV := .venv
DEVENV := $(VENV)/bin/devenv
INSTALLED := $(VENV)/.installed
CONSUMERS := $(VENV)/.consumers
BENCH := $(VENV)/.bench
AUDIT := $(VENV)/.audit
# Tests run devenv thousands of times, which would be compiled each time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help up down test test-long check unit integration consumers kubernetes engines chaos bench soak suites audit
.PHONY: dist clean venv-package

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

up: $(INSTALLED) ## Install, bring the engine up, start all four services, wire them
	@$(DEVENV) doctor --fix
	@$(DEVENV) up

down: $(INSTALLED) ## Remove the services; their data stays
	@$(DEVENV) down

test: $(CONSUMERS) ## Run lint, types, unit, integration and consumer tests
	@$(VENV)/bin/python -m tests.run

test-long: $(CONSUMERS) ## Run all tests that `make test` leaves out, because they take long
	@$(VENV)/bin/python -m tests.run --long

check: $(INSTALLED) ## Lint and type-check
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

unit: $(INSTALLED) ## Run the tests that need no engine
	@$(VENV)/bin/pytest tests/unit

integration: $(INSTALLED) ## Run the tests against the real engine and the real services
	@$(DEVENV) doctor --fix
	@$(VENV)/bin/pytest tests/integration

consumers: $(CONSUMERS) ## Run the tests with oslo's libraries and other real clients
	@$(DEVENV) doctor --fix
	@$(VENV)/bin/pytest tests/consumers

kubernetes: $(CONSUMERS) ## Build a small Kubernetes (once, 5 minutes, as root); run the tests that need a cluster, in 40 minutes
	@tests/clusters/kubernetes build
	@$(DEVENV) doctor --fix
	@$(VENV)/bin/pytest tests/clusters

chaos: $(INSTALLED) ## Let every request to the engine fail once, in five ways; writes docs/reliability.*
	@$(DEVENV) doctor --fix
	@KILL_EVERY=0.25 $(VENV)/bin/pytest tests/integration/test_first_start.py
	@$(VENV)/bin/python -m tests.chaos

bench: $(BENCH) ## Measure against other tools, and on each kind of engine; writes docs/benchmarks.*
	@$(DEVENV) doctor --fix
	@$(VENV)/bin/python -m tests.bench

soak: $(CONSUMERS) ## Put load on for minutes, then many environments up at once; writes docs/reliability.md
	@$(DEVENV) doctor --fix
	@$(VENV)/bin/python -m tests.soak --page docs/reliability.md

suites: $(CONSUMERS) ## Run OpenStack's own test suites on devenv's services; writes docs/suites.md
	@$(DEVENV) doctor --fix
	@$(DEVENV) images build mysql mariadb postgresql rabbitmq etcd
	@$(VENV)/bin/python -m tests.suites --page docs/suites.md

engines: $(CONSUMERS) ## Run tests on ten engines, in half an hour; writes docs/engines.md
	@$(DEVENV) doctor --fix
	@$(VENV)/bin/python -m tests.engines --page docs/engines.md

audit: $(AUDIT) ## Look for unsafe code and known vulnerabilities; writes docs/dependencies.md
	@$(VENV)/bin/ruff check --select S devenv compose
	@$(VENV)/bin/python -m tests.audit

dist: $(INSTALLED) ## Build a wheel and a source archive into dist/ and check them; TAG=vX.Y.Z for a release
	@$(VENV)/bin/python -m tests.dist $(if $(TAG),--tag '$(TAG)')

clean: ## Remove what was installed and made here; containers and data stay
	rm -rf $(VENV) .suites dist build .mypy_cache .ruff_cache .pytest_cache

# Debian's python3 comes without what makes a virtual environment: a package of its own, per version of Python.
VENV_PACKAGE := $(patsubst python,python3,$(notdir $(PYTHON)))-venv
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo -n) env DEBIAN_FRONTEND=noninteractive

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "cannot install devenv: $(PYTHON) is not there or older than 3.11; run 'make PYTHON=python3.12 …'" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(MAKE) --no-print-directory venv-package
	@echo "installing into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --editable '.[dev]'
	@touch $@

$(CONSUMERS): $(INSTALLED)
	@echo "installing the libraries of tests/consumers"
	@$(VENV)/bin/pip install --quiet --editable '.[dev,consumers]'
	@$(VENV)/bin/pip install --quiet --editable '.[etcd3]' || echo "cannot install etcd3 here; its tests say so" >&2
	@touch $@

$(BENCH): $(INSTALLED)
	@echo "installing what draws the bench's picture"
	@$(VENV)/bin/pip install --quiet --editable '.[dev,bench]'
	@touch $@

$(AUDIT): $(INSTALLED)
	@echo "installing pip-audit"
	@$(VENV)/bin/pip install --quiet --editable '.[dev,audit]' || echo "cannot install pip-audit here; the audit says so" >&2
	@touch $@

venv-package:
	@command -v apt-get >/dev/null && $(AS_ROOT) true 2>/dev/null || \
		{ echo "cannot make a virtual environment; run: sudo apt-get install $(VENV_PACKAGE)" >&2; exit 1; }
	@echo "installing $(VENV_PACKAGE)"
	@$(AS_ROOT) apt-get -qq update || echo "apt-get update failed, going on with the old package lists" >&2
	@$(AS_ROOT) apt-get -qq install -y --no-install-recommends $(VENV_PACKAGE)
