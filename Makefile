# `make demo` and `make test` are the only set-up: each makes the environment that it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What builds the site has an environment of its own, a small one.
SITE_VENV := .venv-site
SITE_STAMP := $(SITE_VENV)/.installed

# Processes that run tests, each a file at a time.
WORKERS ?= auto

.PHONY: demo test random e2e lint benchmark docs site clean

$(STAMP): pyproject.toml requirements-test.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/megatron-core-0.12 megatron-core==0.12.3
	touch $@

demo: $(STAMP)  ## profile, query, project and check, on this machine's CPU
	cd tests && ../$(BIN)/python -m e2e.demo --out ../demo-output

test: $(STAMP)  ## everything but benchmarks, the minutes-long comparison with real runs and the GPU tests
	$(BIN)/python -m pytest -m "not e2e and not gpu" --ignore tests/benchmarks -n $(WORKERS) --maxprocesses 8 --dist loadfile

random: $(STAMP)  ## the property tests on examples that are drawn anew
	HYPOTHESIS_PROFILE=random $(BIN)/python -m pytest -m "hypothesis and not e2e and not gpu" -n $(WORKERS) --maxprocesses 8

e2e: $(STAMP)  ## projections against real runs
	$(BIN)/python -m pytest -m e2e -s

lint: $(STAMP)  ## style, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

benchmark: $(STAMP)  ## speed, as ratios against a baseline of the same run
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only -s

docs: $(STAMP)  ## regenerate the references, and the outputs that pages show
	$(BIN)/python -m vtrain_schemas.reference > docs/schema.md
	$(BIN)/python -m vtrain_sim.validate.columns > docs/validation-tables.md
	$(BIN)/python -m vtrain_sim.report.flag_reference > docs/flags.md
	$(BIN)/python -m vtrain_sim.report.preset_reference > docs/presets.md
	cd tests && ../$(BIN)/python -m support.shown_output ../docs/quickstart.md ../docs/sql.md ../docs/compare.md ../docs/timelines.md

$(SITE_STAMP): requirements-docs.txt
	$(PYTHON) -m venv $(SITE_VENV)
	$(SITE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@

site: $(SITE_STAMP)  ## the documentation as a site, in site/: built strictly, every link checked
	NO_MKDOCS_2_WARNING=1 $(SITE_VENV)/bin/python -m mkdocs build --strict
	cd tests && ../$(SITE_VENV)/bin/python -m support.built_site ../site

clean:
	rm -rf $(VENV) $(SITE_VENV) demo-output site build dist
