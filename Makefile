# make demo, make test and make lint build .venv when it is missing; nothing else is needed beside Python and make.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-jax test-slow lint format benchmark clean

# make demo METHOD=gaussianaug is the short one.
METHOD ?= gaussianaug macer smoothadv

demo: $(INSTALLED)
	$(RUN) data/prepare_digits.py
	for method in $(METHOD); do \
		$(RUN) evaluation/DIGITS/compare_$$method.py --results-dir runs/demo || exit; \
	done

test: $(INSTALLED)
	$(RUN) -m pytest

test-jax: $(INSTALLED)
	$(RUN) -m pip install --quiet -e '.[jax]'
	KERAS_BACKEND=jax $(RUN) -m pytest

test-slow: $(INSTALLED)
	$(RUN) -m pytest -m slow

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
	$(RUN) benchmarks/memory.py
	$(RUN) benchmarks/label_flipping.py

$(INSTALLED): requirements.txt pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) *.egg-info build .pytest_cache .ruff_cache .mypy_cache
