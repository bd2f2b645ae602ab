# What a person types, and CI too. Each verb sets up what it needs first; nothing is done by hand.
# Arguments go through ARGS:  make test ARGS="tests/unit -x"   make demo ARGS="--help"

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test model chaos kills fuzz check bench sync
ARGS ?=
BIN := .venv/bin
# pyright's wrapper would ask the network whether there is a newer one.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

help:  ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## */\1	/p' Makefile | while IFS='	' read -r verb text; do printf '  make %-7s %s\n' "$$verb" "$$text"; done

setup:  ## make .venv (or bring it up to date)
	@tools/setup

setup-dev:
	@tools/setup dev

demo: setup  ## see it work: half a million records through a server and a worker that are killed
	@$(BIN)/streamlayer demo $(ARGS)

# Three processes, for most of the time is waiting; `worksteal` keeps a file's tests together, and with them its server.
test: setup  ## run the tests
	@$(BIN)/python -m pytest -n 3 --dist worksteal $(ARGS)

model: setup  ## 20,000 steps of random histories of a partition and of a group against models, on each server
	@HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest tests/lua/test_model.py tests/lua/test_group_model.py $(ARGS)

chaos: setup  ## every fault that one machine can show, under load, and a table of what it cost (10 minutes at most)
	@HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest tests/system/test_chaos.py $(ARGS)

kills: setup  ## a worker of four processes under load, one killed every few seconds for two minutes, and the judgement
	@HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest tests/system/test_worker_killed.py $(ARGS)

fuzz: setup  ## 100,000 strange inputs and more: frames, replies, stored values, servers that babble
	@HYPOTHESIS_PROFILE=thorough STREAMLAYER_FUZZ_FLOOR=$(if $(ARGS),0,100000) $(BIN)/python -m pytest -n 2 tests/fuzz $(ARGS)

check: setup-dev  ## format, lint, types, import floors, generated code up to date
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python tools/unasync.py --check

bench: setup  ## records per second, bytes per record, latency, against plain streams
	@$(BIN)/python -m benchmarks $(ARGS)

sync: setup  ## write the sync shell and its tests from the async ones
	@$(BIN)/python tools/unasync.py
