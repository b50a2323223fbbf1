# Everything starts here: `make help`. Needs Python >= 3.11, make and a package index, nothing else.

PYTHON ?= python3
PYTEST_ARGS ?=
DEMO_ARGS ?=

comma := ,
BIN := .venv/bin
INSTALLED := .venv/.installed
NNUNET := build/nnunet
NNUNET_INSTALLED := $(NNUNET)/.installed
RELEASE := build/release
LOWEST := build/lowest
LOWEST_INSTALLED := $(LOWEST)/.installed
LOWEST_TESTS := $(addprefix tests/,distance files store data/test_formats.py cli/test_precompute.py cli/test_maps.py \
  pictures losses/test_inputs.py study/test_statistics.py training/test_settings.py integrations/test_monai_loss.py)
EXTRAS := fast,zarr,dask,train,monai,report,skeleton,dev
# pyproject's [build-system], and what hatchling asks for when the install is editable.
BUILD_TOOLS := hatchling editables
PIP_INSTALL := -m pip --disable-pip-version-check install --quiet --constraint
# A file stays in one process, so that its fixtures are made once. Every process imports torch:
# more than four cost more memory than they save time. One thread each: they already fill the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo chromium test test-slow test-nnunet test-lowest test-pythons docs example lint format types wheel reproducible release-check constraints clean .venv

# A new environment in the folder $(1), or the reason why not. A half-made one is removed.
define new_environment
@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || { \
  echo "rwloss needs Python >= 3.11, and '$(PYTHON)' is older or not there: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
$(PYTHON) -m venv $(1) || { rm -rf $(1); exit 2; }
endef

help: ## this list
	@awk -F ':.*## ' '/^[.a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv: $(INSTALLED) ## the environment: rwloss editable, all extras, versions of constraints.txt

# No Python package brings a browser, and playwright's own download would be a second one.
chromium: ## Chromium for the browser tests, where root and apt-get can install it
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
	  if command -v $$name; then exit 0; fi; \
	done; \
	if [ "$$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else \
	  echo "no Chromium here, and no apt-get as root: install it with the system's packages, or the browser tests are skipped"; \
	fi

demo: $(INSTALLED) ## everything in minutes on the sample that ships
	$(BIN)/rwloss demo $(DEMO_ARGS)

test: $(INSTALLED) ## all tests but the slow ones (PYTEST_ARGS="..." goes to pytest)
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

# pytest ends with 5 when it has selected no test: said aloud, and no failure.
test-slow: $(INSTALLED) ## the tests marked slow (RWLOSS_REDUCED=1: their reduced form)
	@code=0; $(PYTEST) -m slow $(PYTEST_ARGS) || code=$$?; \
	if [ $$code -eq 5 ]; then echo "test-slow: no test ran, because none is marked slow"; \
	else exit $$code; fi

test-nnunet: $(NNUNET_INSTALLED) ## the tests of nnU-Net and other users of torchvision (RWLOSS_REDUCED=1: the slow one reduced)
	OMP_NUM_THREADS=1 $(NNUNET)/bin/python -m pytest tests/integrations/nnunet tests/docs/test_pages.py \
	  tests/store/test_other_stores.py -k "nnunet or segmentation or b2nd" $(PYTEST_ARGS)

# What pyproject.toml allows at the least, for every direct dependency but torch: other versions of
# torch have no CPU build on the default index. Old versions warn of what they will drop.
test-lowest: $(LOWEST_INSTALLED) ## a part of the tests with the lowest versions that pyproject.toml allows
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR) $(LOWEST)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
	  -p no:cacheprovider -o filterwarnings=default -m "not slow" $(LOWEST_TESTS) $(PYTEST_ARGS)

# An interpreter that is not here is skipped, and tox says so.
test-pythons: $(INSTALLED) ## the quick tests with each of Python 3.11, 3.12 and 3.13 that is here
	$(BIN)/uv tool run tox $(if $(PYTEST_ARGS),-- $(PYTEST_ARGS))

# The variable silences what the theme says of the next version of mkdocs.
docs: $(INSTALLED) ## the site in build/site: warnings are errors, its pages opened in a browser
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	RWLOSS_SITE=build/site OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/docs/test_site.py

example: $(INSTALLED) ## the worked plug-in: installed beside the environment, and its tests
	rm -rf build/example
	$(BIN)/python $(PIP_INSTALL) constraints.txt --no-deps --no-build-isolation --target build/example ./examples/rwloss-exponential-depth
	cd examples/rwloss-exponential-depth && PYTHONPATH=$(CURDIR)/build/example OMP_NUM_THREADS=1 $(CURDIR)/$(BIN)/python -m pytest -q -p no:cacheprovider

lint: $(INSTALLED) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED) ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED) ## mypy, strict
	$(BIN)/mypy

wheel: $(INSTALLED) ## wheel and sdist in dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation .

reproducible: wheel ## a second build, to be the same bytes
	rm -rf build/again
	$(BIN)/python -m build --no-isolation --outdir build/again . >/dev/null
	for file in dist/*; do cmp $$file build/again/$${file#dist/} || exit 1; done

# Tools of their own, because cffconvert wants an old jsonschema.
release-check: reproducible ## what a release has to pass: metadata of the files in dist/, CITATION.cff
	test -x $(RELEASE)/bin/twine || { $(PYTHON) -m venv $(RELEASE) && \
	  $(RELEASE)/bin/python -m pip --disable-pip-version-check install --quiet twine==7.0.0 cffconvert==2.0.0; }
	$(RELEASE)/bin/twine check --strict dist/*
	$(RELEASE)/bin/cffconvert --validate -i CITATION.cff

clean: ## remove .venv, caches and everything built
	rm -rf .venv .tox build dist rwloss-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(call new_environment,.venv)

# The build tools come first and under the same pins, so that no build downloads versions of its own.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing rwloss and what it needs into .venv: minutes the first time, seconds later."
	$(BIN)/python $(PIP_INSTALL) constraints.txt $(BUILD_TOOLS)
	$(BIN)/python $(PIP_INSTALL) constraints.txt --no-build-isolation --editable ".[$(EXTRAS),docs]"
	@touch $@

# An environment of its own, as docs/nnunet.md makes it. nnU-Net needs torchvision, and torchvision must
# be of the same build as torch; the index has one build of both for Linux, which runs on the CPU too.
# "===" leaves out a build of torch for the CPU alone.
$(NNUNET_INSTALLED): pyproject.toml constraints.txt
	@echo "Installing rwloss with nnU-Net into $(NNUNET): 6 GB, minutes."
	rm -rf $(NNUNET)
	$(call new_environment,$(NNUNET))
	$(NNUNET)/bin/python $(PIP_INSTALL) constraints.txt --editable ".[nnunet,skeleton]" \
	  "$$(grep '^torch==' constraints.txt | sed 's/==/===/')" segmentation-models-pytorch torchseg blosc2 \
	  pytest pytest-timeout pytest-xdist hypothesis
	@touch $@

$(LOWEST_INSTALLED): $(INSTALLED)
	@echo "Installing the lowest versions that pyproject.toml allows into $(LOWEST)."
	rm -rf $(LOWEST)
	$(call new_environment,$(LOWEST))
	grep '^torch==' constraints.txt > $(LOWEST)/torch.txt
	$(BIN)/uv pip compile --quiet pyproject.toml $(addprefix --extra ,$(subst $(comma), ,$(EXTRAS))) \
	  --resolution lowest-direct --constraint $(LOWEST)/torch.txt --no-annotate --no-header \
	  | grep -vE '^(cuda-|nvidia-|triton==)' > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip --disable-pip-version-check install --quiet --constraint $(LOWEST)/constraints.txt \
	  $(BUILD_TOOLS)
	$(LOWEST)/bin/python -m pip --disable-pip-version-check install --quiet --constraint $(LOWEST)/constraints.txt \
	  --no-build-isolation --editable ".[$(subst $(comma)dev,,$(EXTRAS))]" pytest pytest-timeout pytest-xdist hypothesis
	@touch $@

constraints: ## renew constraints.txt: the newest of everything beside the torch it names
	rm -rf build/constraints
	$(call new_environment,build/constraints)
	grep '^torch==' constraints.txt > build/constraints/torch.txt
	build/constraints/bin/python $(PIP_INSTALL) build/constraints/torch.txt $(BUILD_TOOLS)
	build/constraints/bin/python $(PIP_INSTALL) build/constraints/torch.txt --no-build-isolation ".[$(EXTRAS),docs,nnunet]"
	{ grep '^#' constraints.txt; \
	  build/constraints/bin/python -m pip --disable-pip-version-check list --format freeze --exclude pip --exclude rwloss \
	  | grep -vE '^(cuda-|nvidia-|triton==)' | sed 's/+[^+]*$$//'; } > build/constraints/new.txt
	mv build/constraints/new.txt constraints.txt
	rm -rf build/constraints
