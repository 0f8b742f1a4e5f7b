# `make demo` and `make test` need nothing but Python 3.11, make and a package registry; each sets up what it needs.
PYTHON ?= python3.11
BIN := .venv/bin
# One thread of BLAS: on tiny vectors a second one costs more than it brings (docs/results.md).
export OPENBLAS_NUM_THREADS ?= 1
export CIFT_TEST_DATA ?= $(wildcard ../shared/data)

.PHONY: setup demo test check check-types check-tests real-day prove-models prove-judge bench lock up down up-local down-local clean

setup: .venv/installed ## make .venv from the pinned lock

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip install --quiet --require-hashes --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --python $(BIN)/python --editable .
	touch $@

demo: setup ## simulate a market, train and judge everything on it, no server
	$(BIN)/cift demo

test: setup ## laws, integration and the short proofs
	$(BIN)/python -m pytest tests -m "not proof and not benchmark"

check: setup ## format, lint, types, import contracts, unit tests and the laws that need no torch
	$(MAKE) --no-print-directory -j2 --output-sync=target check-types check-tests

check-types:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright

check-tests:
	$(BIN)/python -m pytest tests/unit tests/contract -m "not proof and not torch and not slow and not real_data"

prove-models: setup ## the long proofs of methods: every seed, every figure
	$(BIN)/python -m pytest tests -m proof -s

prove-judge: setup ## the judge where the truth is known: 20 markets without a signal, 20 with one, whole; hours long, goes on where it stopped
	$(BIN)/python -m pytest tests/unit/test_evaluation_significance.py tests/unit/test_evaluation_deflated_sharpe.py tests/unit/test_nulls.py -s
	$(BIN)/python scripts/prove_judge.py

real-day: setup ## the recorded day: ingest, train, serve, replay, compare
	$(BIN)/python -m pytest tests/e2e/test_real_day.py -m real_day -s

bench: setup .venv-bench/installed ## time what is fast, beside its peers; the features' tables of docs/results.md are written again
	$(BIN)/python -m pytest tests/benchmarks -s
	$(BIN)/python tests/benchmarks/write_results.py

# Peers that do not fit the lock have an environment of their own.
.venv-bench/installed: Makefile .venv/installed
	$(PYTHON) -m venv --clear .venv-bench
	$(BIN)/uv pip install --quiet --python .venv-bench/bin/python "nautilus_trader==1.221.0" "hftbacktest==2.4.4"
	touch $@

up: ## start QuestDB, ClickHouse and Dragonfly (ONLINE=redis: Valkey) with docker compose, wait until each answers, print the settings
	@infra/stack.sh up

down: ## stop them; what they stored is kept
	@infra/stack.sh down

up-local: setup ## the same without containers: QuestDB, ClickHouse and Redis (ONLINE=valkey: Valkey) as processes below $$CIFT_HOME/servers
	@$(BIN)/python scripts/up_local.py up

down-local: ## stop them; what they stored is kept
	@$(BIN)/python scripts/up_local.py down

lock: ## pin every version with hashes, naming no index
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url --extra dev pyproject.toml -o requirements.lock

clean:
	rm -rf .venv .venv-bench .cift build *.egg-info
