# Each target does all the set-up that it needs on a fresh machine: a virtual environment in .venv and the install.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check --quiet
CORE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev

.PHONY: demo test test-all parity reliability docs check format dist clean

demo: $(CORE)
	$(PY) examples/demo.py

# Two processes of one thread each: files stay whole, so their shared fixtures are made once. They run in their order:
# by default the files with few tests come last, and these are the long ones.
test: $(DEV)
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(DEV)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

parity: $(DEV)
	$(PY) -m pytest -m parity -s

# Runs the tests of the fault matrix, the slow ones too, and writes docs/reliability.md.
reliability: $(DEV)
	$(PY) benchmarks/reliability_table.py --slow

# Builds the sdist and from it the wheel, checks both, and runs the wheel in a virtual environment of its own.
dist: $(DEV)
	$(PIP) 'build>=1.2' 'twine>=6.1'
	rm -rf dist
	$(PY) -m build
	$(PY) -m twine check --strict dist/*
	SRPL_DIST=$(CURDIR)/dist $(PY) -m pytest -m 'slow or not slow' tests/test_wheel.py

# The documentation site in build/site. A broken link, a public name without a docstring and a page outside of the
# navigation fail. To look at it: python -m http.server -d build/site
docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(VENV)/bin/mkdocs build

format: $(DEV)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# BasicSR's setup.py asks for torch at build time: with build isolation pip would download torch twice, so its build
# requirements are installed first. Where it cannot be built (Python 3.13), the core is installed and its parts skip.
$(CORE): pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "installing (PyTorch is a few GB; a minute or two) ..."
	$(PIP) --upgrade pip setuptools wheel
	$(PIP) --editable '.[demo]'
	$(PIP) cython
	$(PIP) --no-build-isolation 'basicsr>=1.4.2' || echo "BasicSR could not be installed; see README, Installation"
	touch $(CORE)

$(DEV): $(CORE)
	$(PIP) --editable '.[dev]'
	touch $(DEV)

clean:
	rm -rf $(VENV) runs experiments tb_logger build dist *.egg-info
