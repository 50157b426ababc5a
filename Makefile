# Every target sets up what it needs in .venv; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
REVIEW_OUT ?= review
BUDGET ?= 6m

.PHONY: review test lint bench docs clean
.DELETE_ON_ERROR:

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Diptych needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -m venv .venv

.venv/.core: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing Diptych into .venv ..."
	@$(PIP) --editable '.[review]'
	@touch $@

.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing Diptych and its development tools into .venv ..."
	@$(PIP) --editable '.[dev]'
	@touch $@ .venv/.core

review: .venv/.core
	@$(BIN)/diptych review --out $(REVIEW_OUT) --budget $(BUDGET)

# The second run checks every shape in the signatures of the mathematics; torch.compile and FlexAttention do not mix with
# that, nor do the loops that numba compiles, nor tests of words by which wrong input is refused: the check refuses first.
# What samplers make of text is no mathematics.
modules = $(patsubst src/diptych/$(1)/%.py, $(1).%, $(wildcard src/diptych/$(1)/*.py))
MATHEMATICS := $(filter-out %.__init__ nn.kernels samplers.fill samplers.text, $(call modules,nn) $(call modules,samplers)) \
  diffusion models objectives
SPACE := $(subst ,, )
COMMA := ,

test: .venv/.dev
	$(BIN)/python -m pytest -n auto --dist loadfile
	$(BIN)/python -m pytest -n auto --dist loadfile tests/diffusion tests/nn tests/models tests/objectives tests/samplers \
	  -k 'not compiled and not flex and not refused' \
	  --jaxtyping-packages=$(subst $(SPACE),$(COMMA),$(strip $(addprefix diptych., $(MATHEMATICS)))),beartype.beartype

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.dev
	@for script in benchmarks/*.py; do \
	  case $$script in */_*) ;; *) echo "== $$script"; $(BIN)/python $$script || exit $$?;; esac; done

docs: .venv/.dev
	@$(BIN)/diptych paper

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
