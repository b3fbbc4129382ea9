# profile-etl: every command that a person runs from a checkout. Needs Python 3.11-3.13 and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
CUSTOMERS ?= 1000000
RECEIPTS ?= 3000000
SCHEDULES ?= 1000000

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint airflow bench soak lock clean
# Syncs of your own are not what the tests and the demo are about.
unexport PROFILE_ETL_SYNCS
# Airflow starts many Python processes: without compiled files each of them takes seconds longer.
unexport PYTHONDONTWRITEBYTECODE

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## make .venv and install the pinned dependencies

$(STAMP): requirements.lock pyproject.toml
	@echo "==> making .venv and installing pinned dependencies (the first time takes a minute)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet -r requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps -e .
	@touch $(STAMP)

demo: setup ## run the Airflow Dags for a sample day against the emulator, and show the reports
	@$(BIN)/python -m etl.airflow.demo

airflow: setup ## Airflow's UI with the Dags, delivering to the emulator, until Ctrl-C (loopback only)
	@$(BIN)/python -m etl.airflow.local

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint ## lint, types and the whole test suite, a process for each core
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

bench: setup ## rows/s, processor time and memory of each step, and how much of the allowed rate is used
	$(BIN)/python tests/benchmarks/throughput.py --customers $(CUSTOMERS) --receipts $(RECEIPTS)
	$(BIN)/python tests/benchmarks/pacing.py --seconds 30
	$(BIN)/python tests/benchmarks/single.py
	$(BIN)/python tests/benchmarks/delta.py

soak: setup ## every kill, cut and schedule, many more examples, 10,000,000 customers; takes a day
	PROFILE_ETL_SOAK=1 $(BIN)/python -m pytest --hypothesis-profile=soak
	PYTHONPATH=tests/support $(BIN)/python -m simulation --schedules $(SCHEDULES)
	$(BIN)/python tests/benchmarks/throughput.py --customers 10000000 --receipts 3000000
	$(BIN)/python tests/benchmarks/bad_rows.py

lock: setup ## resolve requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --python-version 3.11 --universal --no-annotate --no-header \
	  --no-emit-index-url --no-emit-find-links --all-extras --group dev pyproject.toml -o requirements.lock

clean: ## remove .venv and everything that runs wrote
	rm -rf .venv data/work .airflow build *.egg-info
