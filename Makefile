# make demo, make test and make lint build .venv when it is missing; nothing else is needed beside Python and make.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: demo plan table report test test-jax test-slow test-slurm test-faults fuzz lint format benchmark clean

# make demo METHOD=all, or METHOD="macer smoothadv"
METHOD ?= gaussianaug
PLAN := evaluation/tables/run_plan.py --plan

demo: $(INSTALLED)
	$(RUN) $(PLAN) config/demo.yaml $(if $(filter all,$(METHOD)),,--methods $(METHOD))

# make plan TABLE=mnist_methods FLAGS="--processes 2 --max-minutes 60": a plan of config/.
TABLE ?= digits

plan: $(INSTALLED)
	$(RUN) $(PLAN) config/$(TABLE).yaml $(FLAGS)

# make table TABLE=mnist_paper FLAGS="--config runs=1": the same by Snakemake, and anything that it takes.
SNAKEMAKE := $(VENV)/bin/snakemake --profile profiles/local --configfile config/$(TABLE).yaml

table: $(INSTALLED)
	$(SNAKEMAKE) $(FLAGS)

# One HTML page of a finished table.
report: $(INSTALLED)
	$(SNAKEMAKE) $(FLAGS) --report runs/tables/$(TABLE)/report.html

# WORKERS=8: so many test files at a time, 2 GiB each.
WORKERS ?= 2
PYTEST := $(RUN) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: $(INSTALLED)
	$(PYTEST)

test-jax: $(INSTALLED)
	$(RUN) -m pip install --quiet -e '.[jax]'
	KERAS_BACKEND=jax $(PYTEST)

test-slow: $(INSTALLED)
	$(RUN) -m pytest -m slow

# Needs root and Debian's slurm-wlm and munge: starts a SLURM of its own on this machine.
test-slurm: $(INSTALLED)
	$(RUN) -m pytest -m slurm tests/slurm

# Runs that are killed, met by another or out of space: make test-faults N=100 SEED=0, N kills at random moments.
test-faults: $(INSTALLED)
	KILLS=$(or $(N),100) SEED=$(or $(SEED),0) $(RUN) -m pytest -m faults tests/faults

# Malformed command lines and files: make fuzz N=1000 SEED=0.
fuzz: $(INSTALLED)
	$(RUN) tests/fuzz/run_fuzz.py --n $(or $(N),1000) --seed $(or $(SEED),0)

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(INSTALLED)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

benchmark: $(INSTALLED)
	$(RUN) benchmarks/speed.py
	$(RUN) benchmarks/price.py
	$(RUN) benchmarks/memory.py
	$(RUN) benchmarks/label_flipping.py

$(INSTALLED): requirements.txt pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) *.egg-info build .pytest_cache .ruff_cache .mypy_cache
