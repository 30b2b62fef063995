# The verbs that people and CI use alike. `make help` lists them.
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= python3
OUT ?= runs/demo
MINUTES ?= 5
MODELS ?= start=tiny attentive=attentive
RUNS ?= runs/paper
SEEDS ?= 0 1 2
TRAINED ?= $(if $(TRAIN),$(RUNS)/policies,benchmarks/checkpoints)
STAMP := $(VENV)/.installed

RLPA_VLLM ?= $(HOME)/.cache/rlpa-vllm
RLPA_MODELS ?= $(HOME)/.cache/rlpa-models

.PHONY: help setup demo test lint type unit test-llm test-models bench bench-paper bench-trainer leaderboard docs clean

help:  ## list the verbs
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/'

setup: $(STAMP)  ## make .venv and install everything, pinned

$(STAMP): setup.cfg constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt "setuptools>=77" wheel
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@

demo: $(STAMP)  ## train the tiny preset, then evaluate before and after (PROFILES=, MINUTES=, OUT=)
	$(BIN)/python -m rlpa_agent.demo --out $(OUT) --minutes $(MINUTES) $(if $(PROFILES),--profiles $(PROFILES))

test: lint type unit test-llm  ## lint, types, doctests, README blocks, examples and tests

lint: $(STAMP)  ## style
	$(BIN)/ruff check .

type: $(STAMP)  ## types
	$(BIN)/mypy

unit: $(STAMP)  ## tests on both cores, without network
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations 15 --ignore tests/llm

test-llm: $(STAMP)  ## users, judges, matchers and prompting agents on a real server with a random tiny model; a minute
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/llm

test-models: $(STAMP)  ## with real models on vLLM, where both are on disk (RLPA_VLLM=, RLPA_MODELS=); not part of test
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 RLPA_VLLM=$(RLPA_VLLM) RLPA_MODELS=$(RLPA_MODELS) \
		$(BIN)/python -m pytest tests/models -v -rs --durations 15

bench: $(STAMP)  ## the benchmarks that need no long training; results under benchmarks/results (EMBEDDING=folder of MiniLM)
	$(BIN)/python benchmarks/env_throughput/run.py --out benchmarks/results/env_throughput
	$(BIN)/python benchmarks/references/run.py --out benchmarks/results/references
	$(BIN)/python benchmarks/matcher_quality/run.py $(if $(EMBEDDING),--embedding $(EMBEDDING)) --out benchmarks/results/matcher_quality
	$(BIN)/python benchmarks/examples/run.py --out benchmarks/results/examples

bench-paper: $(STAMP)  ## the paper's tables and figures (TRAIN=1: train the policies first, hours; TRAINED=, SEEDS=, MODELS="rlpa=DIR …", RUNS=, EMBEDDING=, DATA=human dialogues)
	$(if $(TRAIN),$(BIN)/python benchmarks/paper/train.py --seeds $(SEEDS) --runs $(TRAINED))
	$(BIN)/python benchmarks/paper/null_band.py --out benchmarks/results/paper
	for name in table1 table2 table4_5 fig4a_shift fig4b_long fig5_efficiency; do \
		$(BIN)/python benchmarks/paper/$$name/run.py --model $(MODELS) --trained $(TRAINED) --seeds $(SEEDS) --runs $(RUNS) --out benchmarks/results/paper || exit 1; done
	$(BIN)/python benchmarks/paper/table6_users/run.py --seeds $(SEEDS) --runs $(RUNS) --out benchmarks/results/paper
	$(BIN)/python benchmarks/paper/table8_matcher/run.py $(if $(EMBEDDING),--embedding $(EMBEDDING)) --out benchmarks/results/paper
	$(BIN)/python benchmarks/paper/table9_judge/run.py --model attentive=attentive rlpa=$(TRAINED)/rlpa-{seed} $(if $(DATA),--data $(DATA)) \
		--seeds $(SEEDS) --runs $(RUNS) --out benchmarks/results/paper
	$(BIN)/rlpa-env report $(RUNS) --dialogues 60 --out benchmarks/results/paper/report.html

leaderboard: $(STAMP)  ## the reference agents as last measured, all entries checked, docs/leaderboard.md
	$(BIN)/python benchmarks/leaderboard/references.py

bench-trainer: $(STAMP)  ## speed of the trainer beside TRL's and plainer ways; wants quiet cores (PARTS=, MODEL=folder of a 0.5B)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[baselines]'
	$(BIN)/python benchmarks/trainer_speed/run.py $(if $(PARTS),--parts $(PARTS)) $(if $(MODEL),--model $(MODEL)) \
		--out benchmarks/results/trainer_speed

docs: $(STAMP)  ## check that every block of README and docs runs
	$(BIN)/python -m pytest tests/test_readme.py

clean:  ## forget the environment and all runs
	rm -rf $(VENV) runs
