# Every target sets up what it needs; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Rebuilt when what is installed may have changed: dependencies, the build hook, a wire contract.
READY := .make/ready
# Tests wait a good deal, for threads, databases and processes, so that a worker more than small machines have CPUs pays.
WORKERS ?= 3
OIDC := tests/oidc/node_modules/.package-lock.json
PROTOS := $(shell find proto -name '*.proto')

.DEFAULT_GOAL := help
.PHONY: help setup oidc proto check unit e2e test test-install golden reference bench drill drill-upgrade demo format clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(READY) ## Create the virtual environment and generate the wire contracts

$(READY): pyproject.toml hatch_build.py $(PROTOS)
	@PYTHON="$(PYTHON)" sh tools/setup.sh $(VENV)
	@mkdir -p $(@D) && touch $@

# The certified provider that login tests need comes from npm; without Node those tests are skipped and say so.
oidc: ## Install the OpenID Connect provider that tests log in with
	@if command -v npm >/dev/null; then $(MAKE) -s --no-print-directory $(OIDC); \
	else echo 'No npm here: tests with the certified OpenID Connect provider are skipped. Install Node and npm for them.' >&2; fi

$(OIDC): tests/oidc/package-lock.json
	npm ci --prefix tests/oidc --no-audit --no-fund --loglevel=error
	@touch $@

proto: ## Generate pomerium_agent/pb again
	@rm -f $(READY) && $(MAKE) --no-print-directory $(READY)

check: $(READY) ## Format, lint, types, floors and fast tests: the inner loop
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n $(WORKERS) --dist loadfile -m 'not e2e and not system' tests

format: $(READY) ## Let ruff write the formatting and the fixes it is sure of
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

e2e: $(READY) oidc ## Tests with real processes: Envoy, console, agent
	$(BIN)/pytest -q -m e2e -n $(WORKERS) --dist loadfile --timeout 120 tests

test: check e2e ## Everything

# Apart, since it needs root, debootstrap and systemd-nspawn, and some minutes.
test-install: $(READY) ## install.sh and the service in a bare Debian that is booted for it
	$(BIN)/pytest -q -m system tests/system

reference: $(READY) ## Write docs/reference again from the table of fields and the tests
	$(BIN)/python tools/reference.py

golden: $(READY) ## Rewrite the golden files; read the diff before you commit it
	GOLDEN=write $(BIN)/pytest -q tests/golden

bench: $(READY) ## What must stay fast, as ratios in one run
	$(BIN)/python -m bench

drill: $(READY) ## Take one thing after the other away from two replicas, and say what visitors notice
	$(BIN)/python -m bench.drill

drill-upgrade: $(READY) ## Restart two replicas in turn and upgrade one in place under load, and count what fails
	$(BIN)/python -m bench.upgrade

demo: $(READY) ## Console, sample upstream and agent on loopback; Ctrl-C stops it
	@$(BIN)/pomerium-agent demo $(DEMO)

clean: ## Remove what the targets above made
	rm -rf $(VENV) .make pomerium_agent/pb dist .pb-* tests/oidc/node_modules
