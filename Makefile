# Every target builds .venv when it is missing. Only Python and make are needed.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: help demo plan rank table report test test-jax test-slow test-slurm test-faults fuzz lint format benchmark clean

# The list shows the comment after two number signs on the line of each target.
help:
	@echo "make TARGET [NAME=value ...]"; echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1:\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F: '{ printf "%-14s %s\n", $$1, $$2 }'

METHOD ?= gaussianaug
PLAN := evaluation/tables/run_plan.py --plan

demo: $(INSTALLED)  ## poison, retrain and certify the digits in two minutes; METHOD=all or METHOD="macer smoothadv"
	$(RUN) $(PLAN) config/demo.yaml $(if $(filter all,$(METHOD)),,--methods $(METHOD))

TABLE ?= digits

plan: $(INSTALLED)  ## run config/TABLE.yaml (digits); TABLE=mnist_methods FLAGS="--processes 2 --max-minutes 60"
	$(if $(filter file,$(origin TABLE)),@echo "plan: config/$(TABLE).yaml. For another file of config/: make plan TABLE=NAME")
	$(RUN) $(PLAN) config/$(TABLE).yaml $(FLAGS)

RANKED = config/rank_$(shell echo $(DATA) | tr A-Z a-z).yaml

rank: $(INSTALLED)  ## check a poison and rank it by what it does to certificates; POISON=mine.npz DATA=MNIST
	$(if $(and $(POISON),$(DATA)),,$(error make rank needs a poison and its data set: POISON=mine.npz DATA=MNIST))
	$(if $(wildcard $(RANKED)),,$(error DATA=$(DATA): no $(RANKED); copy config/rank_mnist.yaml to it, or choose DIGITS, MNIST or FASHION))
	$(RUN) evaluation/tables/rank.py --plan $(RANKED) --poison "$(POISON)" --processes 2 $(FLAGS)

SNAKEMAKE := $(VENV)/bin/snakemake --profile profiles/local --configfile config/$(TABLE).yaml

table: $(INSTALLED)  ## run config/TABLE.yaml by Snakemake, with its options; TABLE=mnist_paper FLAGS="--config runs=1"
	$(SNAKEMAKE) $(FLAGS)

report: $(INSTALLED)  ## one HTML page of a finished table; TABLE=digits
	$(SNAKEMAKE) $(FLAGS) --report runs/tables/$(TABLE)/report.html

WORKERS ?= 2
PYTEST := $(RUN) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: $(INSTALLED)  ## the test suite; WORKERS=8 runs eight test files at a time, 2 GiB each
	$(PYTEST)

test-jax: $(INSTALLED)  ## the tests that depend on the backend, with JAX
	$(RUN) -m pip install --quiet -e '.[jax]'
	KERAS_BACKEND=jax $(PYTEST) -m 'backend and not slow and not slurm and not faults'

test-slow: $(INSTALLED)  ## the tests that take minutes
	$(RUN) -m pytest -m slow

test-slurm: $(INSTALLED)  ## test on a SLURM that the test starts; needs root and Debian's slurm-wlm and munge
	$(RUN) -m pytest -m slurm tests/slurm

test-faults: $(INSTALLED)  ## test runs that are killed, meet another run or fill the disk; N=100 kills, SEED=0
	KILLS=$(or $(N),100) SEED=$(or $(SEED),0) $(RUN) -m pytest -m faults tests/faults

fuzz: $(INSTALLED)  ## try malformed command lines and files; N=1000 SEED=0
	$(RUN) tests/fuzz/run_fuzz.py --n $(or $(N),1000) --seed $(or $(SEED),0)

lint: $(INSTALLED)  ## check style, types and import rules
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(INSTALLED)  ## rewrite all files in the project's style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

benchmark: $(INSTALLED)  ## measure speed, price and memory on this machine
	$(RUN) benchmarks/speed.py
	$(RUN) benchmarks/price.py
	$(RUN) benchmarks/memory.py
	$(RUN) benchmarks/label_certificates.py

$(INSTALLED): requirements.txt pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt -e '.[dev]'
	touch $@

clean:  ## delete .venv and the caches of the tools
	rm -rf $(VENV) *.egg-info build .pytest_cache .ruff_cache .mypy_cache
