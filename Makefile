# make run: install if need be, train the main job on nine ranks, print what it cost. `make help` lists the rest.

STEPS = 200000

# make test COVERAGE=1 also prints how much of the package the tests' own processes run.
COVERED := --cov=sde_harl --cov-report=term:skip-covered

SHELL := /bin/bash
VENV := $(CURDIR)/.venv
STAMP := .venv/.installed
export PATH := $(VENV)/bin:$(PATH)
# Open MPI refuses root without both; for anyone else they change nothing.
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1

# JAX needs Python 3.11; numpy below 2, which compressai asks for, has no wheels for 3.13.
RIGHT_PYTHON := sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
# Good: it runs, its Python is right, and it was made for this folder (a venv can't be moved).
GOOD_VENV := grep -qF '$(VENV)' .venv/bin/activate 2>/dev/null && \
	.venv/bin/python -c 'import sys, pip; $(RIGHT_PYTHON)' 2>/dev/null
C_SOURCES := $(wildcard sde_harl/*/*.c sde_harl/*/*/*.c sde_harl/*/*/*.h)
ifneq ($(wildcard $(STAMP)),)
$(shell $(GOOD_VENV) || rm -f $(STAMP))
endif

.DEFAULT_GOAL := help
.PHONY: help venv run prototype split football test test-slow docs check-docs lint types clean

help:
	@echo 'make venv       install into .venv (the other targets do so themselves)'
	@echo 'make run        train the main job for $(STEPS) environment steps (STEPS=n) on nine ranks, print its cost'
	@echo 'make prototype  the same on an emulated server and eight boards over Wi-Fi, on this machine; needs root'
	@echo 'make split      train the paper'"'"'s policy at seven splits on nine ranks, print and draw what each costs'
	@echo 'make football   build and install Google Research Football, once (5 to 15 minutes)'
	@echo 'make test       the tests, in minutes (COVERAGE=1: and how much of the package they run)'
	@echo 'make test-slow  the tests that train for long'
	@echo 'make docs       the pages of docs/ as a site in build/site'
	@echo 'make check-docs runs the commands of README.md and docs/, each for seconds'
	@echo 'make lint       ruff and mypy (make types: mypy alone)'
	@echo 'make clean      remove caches and build leftovers; .venv and results stay'

venv: $(STAMP)

# The stamp is written last, so that an install that was cut short is taken up again.
$(STAMP): pyproject.toml setup.py Makefile $(C_SOURCES)
	@rm -f $@
	@command -v cc gcc clang >/dev/null || { \
		echo 'error: no C compiler (Debian: apt install gcc libc6-dev python3-dev)' >&2; exit 1; }
	@$(GOOD_VENV) || { \
		for python in python3.11 python3.12 python3; do \
			"$$python" -c 'import sys, venv, ensurepip; $(RIGHT_PYTHON)' 2>/dev/null || continue; \
			echo "making .venv with $$("$$python" --version)"; \
			exec "$$python" -m venv --clear .venv; \
		done; \
		echo 'error: no Python 3.11 or 3.12 with its venv module (Debian: apt install python3-venv);' \
			'3.13 has no wheels of numpy<2, which compressai needs' >&2; \
		exit 1; \
	}
	@echo 'installing into .venv: one to five minutes, 2.5 GB'
	.venv/bin/python -m pip install -q -e '.[mpi,smax,mpe,mamujoco,lbforaging,rware,video,onnx,dev]'
	@# Nine ranks on fewer cores: mpirun would refuse, or bind each rank to one core. Mapping is by slot, since
	@# OVERSUBSCRIBE alone puts every rank on the first host of the hostfile.
	@printf '%s\n' 'rmaps_default_mapping_policy = slot:OVERSUBSCRIBE' 'hwloc_default_binding_policy = none' \
		> .venv/etc/prte-mca-params.conf
	@grep -q OMPI_ALLOW_RUN_AS_ROOT .venv/bin/activate || printf '%s\n' '# Open MPI refuses root without both.' \
		'export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1' >> .venv/bin/activate
	@touch $@

run: venv
	mpirun -np 9 --hostfile hostfiles/localhost python -m sde_harl.run configs/smac.yaml train.steps=$(STEPS)
	@python analysis/resource_consumption.py latest
	@echo 'next: source .venv/bin/activate, then sde-harl report latest, or sde-harl play latest'

prototype: venv
	jobs/testbed/prototype.sh

# Started again, it goes on where it stopped.
split: venv
	sde-harl sweep configs/split.yaml policy.local_blocks=0,1,2,3,4,5,10 \
		--mpirun 'mpirun -np 9 --hostfile hostfiles/localhost'
	python analysis/split.py results/sweeps/split --plot results/sweeps/split/split.png

football: venv
	jobs/football.sh

test: venv
	python -m pytest -q -m 'not slow' -n 2 --dist worksteal $(if $(COVERAGE),$(COVERED))

test-slow: venv
	python -m pytest -q -m slow

docs: venv
	python -c 'import material, mkdocstrings_handlers.python' 2>/dev/null || python -m pip install -q -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 python -m mkdocs build -q

check-docs: venv
	python tests/helpers/doc_commands.py

lint: types
	python -m ruff check .
	python -m ruff format --check .

types: venv
	python -m mypy sde_harl analysis benchmarks jobs/testbed/*.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find sde_harl analysis benchmarks tests -name __pycache__ -prune -exec rm -rf {} +
