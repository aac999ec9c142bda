# Every target installs what it needs into .venv first; nothing outside the checkout and LACUNA_HOME is touched.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && exit; done; echo python3)
LACUNA_HOME ?= $(CURDIR)/.lacuna
BIN := .venv/bin
export LACUNA_HOME

.PHONY: quickstart test test-xla test-chaos test-images test-cluster bench-cuda lint install install-dev install-chaos install-xla stop clean

quickstart: install  ## Run examples/quickstart.yaml and print its law
	@$(BIN)/lacuna serve --detach
	@$(BIN)/lacuna run examples/quickstart.yaml

stop: install  ## Stop the page, the REST service and MLflow
	@$(BIN)/lacuna serve --stop

test: install-dev  ## The whole test suite
	@# In the order of the folders: the long roads of controller and e2e first, not when only one worker is left.
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-images:  ## Build the images, train a sweep in them, read its law; needs root on Debian, says why where it cannot
	@# IMAGES="trainer-gpu …" builds and looks at these instead.
	@$(PYTHON) -m tests.images.check $(IMAGES)

test-cluster: install-dev  ## Install the chart on the cluster of KUBECONFIG, kill Pods, check the law
	@$(BIN)/python -m tests.cluster.check

test-chaos: install-chaos  ## kill -9 at every named point, nodes of Ray killed and drained (minutes)
	@$(BIN)/python -m pytest -m chaos tests/chaos tests/controller

test-xla: install-xla  ## The trainer on XLA, on PJRT's CPU device, in an environment of its own
	@# Where the disk has no room for that environment, installing has said so and made none.
	@[ ! -e .venv-xla/.installed ] || \
		PJRT_DEVICE=CPU timeout --kill-after=10 1200 .venv-xla/bin/python -m pytest tests/xla --confcutdir=tests/xla -q || \
		{ code=$$?; [ $$code -lt 124 ] || echo "make test-xla: the XLA lane ran for over 20 minutes and was ended" >&2; exit $$code; }

bench-cuda: install-dev  ## On a machine with a GPU: its tests and its figures, in ten minutes
	@$(BIN)/python benchmarks/cuda.py

lint: install-dev  ## Formatting, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

install:
	@$(PYTHON) install.py

install-dev:
	@$(PYTHON) install.py dev

install-chaos:
	@$(PYTHON) install.py dev jobs

install-xla:
	@$(PYTHON) install.py xla

clean: ## Remove the environment and everything the quickstart wrote
	rm -rf .venv .venv-xla .lacuna build *.egg-info
