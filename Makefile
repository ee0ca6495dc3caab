# `make lab` and `make test` are the two commands; each installs what it needs.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export STRONGBOX_LAB ?= lab

.PHONY: help lab lab-down test test-long check bench lock prerequisites vagrant vagrant-box \
  vagrant-down vagrant-prerequisites

help:
	@echo 'make lab       six hosts with their own kernels: ZooKeeper and Kafka, every connection TLS;'
	@echo '               prints how to connect. STRONGBOX_LAB_DRIVER=nspawn makes them containers'
	@echo 'make lab-down  removes them without a trace'
	@echo 'make test      every test that CI runs, on hosts of its own'
	@echo 'make test-long the same, with all that is left out there for its time'
	@echo 'make bench     compares a run that changes nothing with an Ansible playbook'
	@echo 'make vagrant   a cluster on virtual machines with LUKS, through a reboot: docs/vagrant.md'
	@echo 'make check     lint, types, unit and fake-host tests: under 2 minutes'
	@echo 'make lock      pins what pyproject.toml asks for, with hashes; UPGRADE=1 takes newer versions'

# Debian's python3 comes without its venv module.
$(STAMP): requirements.lock pyproject.toml
	@echo '--> installing Python packages into $(VENV)'
	@python3 -c 'import venv, ensurepip' 2>/dev/null || \
	  { apt-get update -q && apt-get install -y -q --no-install-recommends python3-venv; }
	@test -x $(BIN)/python || python3 -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

prerequisites: $(STAMP)
	@python3 lab/prerequisites.py

lab: prerequisites
	@$(BIN)/python -m lab run

lab-down: $(STAMP)
	@$(BIN)/python -m lab down

check: $(STAMP)
	@echo '--> ruff'; $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo '--> mypy --strict'; $(BIN)/mypy
	@echo '--> unit and fake-host tests'; $(BIN)/pytest -q -n auto tests/unit tests/fake

# The hosts are taken down whatever the outcome, so that nothing is left running.
test: prerequisites check
	@echo '--> tests on hosts that are containers (about 20 minutes)'; export STRONGBOX_LAB=test; \
	$(BIN)/pytest -v --durations=15 tests/lab -m 'not own_kernel'; status=$$?; \
	$(BIN)/python -m lab down; exit $$status
	@echo '--> tests on hosts with kernels and disks of their own (about 20 minutes)'; \
	export STRONGBOX_LAB=kernels; \
	$(BIN)/pytest -v --durations=15 tests/lab -m own_kernel; status=$$?; \
	$(BIN)/python -m lab down; exit $$status

# The same with 10,000 examples of each property, every reboot and every moment of a kill: hours.
test-long:
	@STRONGBOX_THOROUGH=1 $(MAKE) test

bench: prerequisites
	@$(BIN)/python -m bench.converge

# Present pins stay as they are unless UPGRADE is set. The lock is for Python 3.11 on Linux.
lock: UV := $(VENV)/uv
lock:
	@test -x $(UV)/bin/uv || { python3 -m venv $(UV) && \
	  $(UV)/bin/pip install --quiet --disable-pip-version-check uv==0.13.9; }
	@$(UV)/bin/uv pip compile --quiet pyproject.toml --all-extras --generate-hashes --no-header \
	  --no-annotate --python-version 3.11 $(if $(UPGRADE),--upgrade) -o requirements.lock

vagrant-prerequisites: $(STAMP)
	@python3 lab/prerequisites.py vagrant

vagrant-box: vagrant-prerequisites
	@$(BIN)/python -m lab.vagrant box

# Takes the machines down at the end and after a failure.
vagrant: vagrant-prerequisites
	@$(BIN)/python -m lab.vagrant run

vagrant-down: $(STAMP)
	@$(BIN)/python -m lab.vagrant down
