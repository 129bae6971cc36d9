# Development commands. Each target creates .venv automatically, and updates it when pyproject.toml or constraints.txt changes.
#
#   PYTHON=python3.12   the interpreter for .venv (3.11 or newer)
#   TORCH_INDEX=URL     the index for torch: that of the CPU build, listed on PyTorch's installation page for pip, is a
#                       download of 200 MB instead of gigabytes. Only read when .venv is made: rm -rf .venv to change it.
#   ARGS="…"            passed on to demo, bench and pytest
#   JOBS=2              processes that pytest uses

PYTHON ?= python3
TORCH_INDEX ?=
ARGS   ?=
JOBS   ?= 2

# Only relative paths are used, so that a folder with spaces in its name works.
PY  = .venv/bin/python
PIP = $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-faults gpu-check matrix lint types format names docs docs-serve docs-check dist bench clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1mmake %-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@sed -n 's/^#   \([A-Z_]*=.*\)/  \1/p; s/^#                       \(.*\)/                      \1/p' $(MAKEFILE_LIST)

demo: .venv/.stamp-base ## Train, sample and evaluate a model of handwritten digits (2 minutes on 2 cores)
	@.venv/bin/pushforward demo $(ARGS)

test: .venv/.stamp-dev ## Format, lint, types, names and all quick tests: required for every commit
	@start=$$(date +%s); failed=; \
	run() { what=$$1; shift; printf '\n== %s\n' "$$what"; "$$@" || failed="$$failed $$what,"; }; \
	printed=$$(mktemp); $(PY) tools/generate_names.py --check > $$printed 2>&1 & names=$$!; \
	trap 'kill $$names 2>/dev/null; rm -f $$printed' EXIT; trap 'exit 130' INT TERM; \
	run format $(PY) -m ruff format --quiet --check .; \
	run lint $(PY) -m ruff check --quiet .; \
	run types $(PY) -m mypy; \
	printf '\n== names\n'; wait $$names || failed="$$failed names,"; cat $$printed; \
	run tests env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(JOBS) --dist loadfile $(ARGS); \
	seconds=$$(( $$(date +%s) - start )); \
	if [ -n "$$failed" ]; then echo "make test: FAILED in$${failed%,} after $$seconds s"; exit 1; fi; \
	echo "make test: format, lint, types, names and tests passed in $$seconds s"

test-slow: .venv/.stamp-dev ## The slow tests (every solver, compiled, several processes)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(JOBS) --dist loadfile -m slow $(ARGS)

test-faults: .venv/.stamp-dev ## The tests that kill processes, fill disks and cut files
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -m faults $(ARGS)

gpu-check: .venv/.stamp-dev ## What only a GPU can show, in 8 minutes, as a page in gpu-check/; skipped where there is none
	@$(PY) -m benchmarks.gpu_check $(ARGS)

matrix: ## The tests with other versions of Python, torch and NumPy, in new environments (ARGS="--only 3.12 -- tests/laws")
	@$(PYTHON) tools/matrix.py $(if $(TORCH_INDEX),--torch-index "$(TORCH_INDEX)") $(ARGS)

lint: .venv/.stamp-dev ## Lint (ruff), without changing anything
	@$(PY) -m ruff check .

types: .venv/.stamp-dev ## Check the types (mypy)
	@$(PY) -m mypy

format: .venv/.stamp-dev ## Format and fix what can be fixed (ruff)
	@$(PY) -m ruff check --fix --quiet . || true
	@$(PY) -m ruff format .

names: .venv/.stamp-dev ## Generate the table of public names and the type stubs
	@$(PY) tools/generate_names.py

# Not --quiet: it hides warnings, such as that of a dead link, from --strict too.
docs: .venv/.stamp-docs ## Build the site into site/, running all of its code
	@NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 $(PY) -m mkdocs build --strict --clean
	@echo "site/index.html is ready"

docs-serve: .venv/.stamp-docs ## Serve the site at 127.0.0.1:8000 and rebuild it on changes
	@NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 $(PY) -m mkdocs serve

docs-check: .venv/.stamp-docs .venv/.stamp-dev ## Check the built site in Chromium: every page with axe-core, and what the first paint needs
	@$(PY) tools/check_first_paint.py
	@$(PY) tools/check_accessibility.py $(ARGS)

dist: .venv/.stamp-dev ## Build wheel and sdist into dist/, and use the wheel in a new environment
	@$(PY) tools/check_dist.py

bench: .venv/.stamp-bench ## Benchmark against other libraries (see benchmarks/)
	@OMP_NUM_THREADS=1 $(PY) -m benchmarks $(ARGS)

clean: ## Remove build outputs; .venv and runs/ are kept
	@rm -rf site dist .pytest_cache .ruff_cache .mypy_cache .hypothesis docs/assets/code docs/assets/chinese docs/assets/runtime docs/assets/katex .cache
	@find src tests tools docs -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- the environment: one stamp for each set of packages, so that the demo does not wait for the tools of the tests

.venv/.stamp-base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: pushforward needs Python 3.11 or newer, and '$(PYTHON)' is not; try make PYTHON=python3.12" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || { echo "making .venv"; $(PYTHON) -m venv --clear .venv; } || { \
	  echo "make: '$(PYTHON) -m venv' did not work; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
ifneq ($(TORCH_INDEX),)
	@echo "installing torch from $(TORCH_INDEX)" && $(PIP) --no-deps --index-url "$(TORCH_INDEX)" torch
endif
	@echo "installing pushforward (once; torch is large)" && $(PIP) -e .
	@touch $@

.venv/.stamp-dev: .venv/.stamp-base
	@echo "installing the tools of the tests (once)" && $(PIP) -e ".[dev,data,log,sd3]"
	@touch $@

.venv/.stamp-docs: .venv/.stamp-base
	@echo "installing the tools of the docs (once)" && $(PIP) -e ".[docs,sd3,tables]"
	@touch $@

.venv/.stamp-bench: .venv/.stamp-base
	@echo "installing the peers (once)" && $(PIP) -e ".[bench]" && $(PIP) --no-deps torchode torchtyping
	@touch $@
