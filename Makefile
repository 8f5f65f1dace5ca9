# Everything needs Python 3.11 or later and make, nothing else: no Java, no server.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Pinned and hashed; without them (or where they do not fit) what pyproject.toml asks for is installed.
REQUIREMENTS := $(wildcard requirements.txt requirements-dev.txt)
READY := $(VENV)/.ready

.PHONY: help setup demo test test-long chaos bench simulate mutants fuzz clean

help:
	@echo "make setup   a virtual environment with paystorm in $(VENV)"
	@echo "make demo    real data through all four topologies, and what came of it"
	@echo "make test    lint, format, types, tests"
	@echo "make chaos   every fault five times on real servers (Java 17, Maven; hours): docs/chaos-results.md"
	@echo "make test-long  the longer tests of real servers: faults, retries, hosts of their own, ssh"
	@echo "make bench   the figures of docs/ against bare limits"
	@echo "make simulate  the simulator on new seeds, until stopped"
	@echo "make mutants   bugs planted for the simulator to find"
	@echo "make fuzz      a minute of coverage-guided fuzzing for each of three targets (Linux)"
	@echo "make clean   removes what make made, the demo's data too; never data/"

setup: $(READY)

$(READY): pyproject.toml $(REQUIREMENTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: paystorm needs Python 3.11 or later, $(PYTHON) is older: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(REQUIREMENTS),)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(addprefix -r ,$(REQUIREMENTS))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
endif
	@touch $@

demo: $(READY)
	$(BIN)/paystorm demo

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q -n 2 --dist loadfile tests/unit tests/simulation tests/web
	$(BIN)/pytest -q tests/stack -m "not long"

test-long: $(READY)
	$(BIN)/pytest -q tests/stack -m long

chaos: $(READY)
	PAYSTORM_CHAOS_EACH=5 $(BIN)/pytest -q -s tests/stack/test_when_servers_are_killed.py -k every_fault

bench: $(READY)
	$(BIN)/python bench/run.py
	$(BIN)/python bench/ingest.py
	@if command -v java >/dev/null && command -v mvn >/dev/null && command -v lein >/dev/null; \
	then $(BIN)/python bench/stack.py; else echo "left out: bench/stack.py, the real Storm, Kafka, HBase and Hive: it needs Java 17, Maven and Leiningen"; fi

simulate: $(READY)
	$(BIN)/paystorm simulate --seeds 0

mutants: $(READY)
	$(BIN)/python mutants/run.py

fuzz: $(READY)
	$(BIN)/python fuzz/run.py --seconds 60

clean:
	rm -rf $(VENV) demo-data build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
