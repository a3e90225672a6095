# make fit            train (CONFIG=eq.yaml, more options in ARGS="--trainer.max_epochs 3 ...")
# make test           the tests that are not marked slow; the environment is made from requirements.lock first
#                     STAGE="not nightly": the slow ones too, as .ci/run does
# make test-slow      the tests that are marked slow: scripts, jobs of several processes, some recipes
# make test-nightly   the tests that are marked nightly: the other recipes, the long scripts
# make test-all       all three
# make lint           ruff (format and rules), mypy on the mathematics
# make bench          speed beside TensorKrowch, JAX and other networks; tables in docs/speed.md
# make gpu            the checks and the speed of a machine with a GPU, in results/gpu.json
# make docs         the site, in build/site; a warning is an error
# make notebooks    execute notebooks/ and keep the outputs
# make release        build both distributions, check them, try the wheel in a new environment; uploads nothing
# make lock           choose the newest versions anew, with hashes and without addresses
#
# PACKAGES=newest or PACKAGES=oldest makes the environment from the ranges of pyproject.toml instead of the lock file.
# PACKAGES=cpu makes it without the packages of CUDA: torch comes from PyTorch's own index (docs/installation.md).

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= eq.yaml
ARGS ?=
PACKAGES ?= locked
STAGE = not slow and not nightly

BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
IN_VENV := $(BIN)/python
READY := $(VENV)/ready
COMMA := ,
EXTRAS := .[train,export,report,slurm,dev$(if $(filter newest,$(PACKAGES)),$(COMMA)bench)]

.PHONY: fit test test-slow test-nightly test-all lint bench gpu docs notebooks lock release dist environment

fit: environment
	$(IN_VENV) -m ttlightning fit --config $(CONFIG) $(ARGS)

test: environment
	$(IN_VENV) -m pytest -m "$(STAGE)" $(ARGS)

test-slow: environment
	$(IN_VENV) -m pytest -m "slow and not nightly" $(ARGS)

test-nightly: environment
	$(IN_VENV) -m pytest -m nightly $(ARGS)

test-all: test test-slow test-nightly

lint: environment
	$(IN_VENV) -m ruff format --check .
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m mypy

bench: environment
	$(IN_VENV) scripts/benchmark.py --output results/benchmark $(ARGS)
	$(IN_VENV) scripts/benchmark_networks.py --output results/benchmark_networks
	$(IN_VENV) scripts/speed_page.py

gpu: environment
	$(IN_VENV) scripts/gpu.py --output results/gpu.json $(ARGS)

# The site has an environment of its own, without torch (pyproject.toml, dependency-groups; pip knows them since 25.1).
DOCS := build/docs/$(notdir $(BIN))/python

docs: build/docs/ready
	NO_MKDOCS_2_WARNING=1 $(DOCS) -m mkdocs build --strict --quiet --site-dir build/site
	@echo build/site/index.html

build/docs/ready: pyproject.toml
	@$(PYTHON) -m venv --clear --without-pip build/docs
	@$(PYTHON) -m pip --python $(DOCS) install --quiet 'pip>=25.1'
	@$(DOCS) -m pip install --quiet --group docs
	@touch $@

# Jupyter beside the packages of the environment.
notebooks: build/notebooks/ready
	build/notebooks/$(notdir $(BIN))/python scripts/notebooks.py $(ARGS)

build/notebooks/ready: $(READY) pyproject.toml
	@$(BIN)/uv venv --quiet --clear --python $(IN_VENV) build/notebooks
	@$(BIN)/uv pip install --quiet --python build/notebooks --group notebooks
	@$(IN_VENV) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	  "$$(build/notebooks/$(notdir $(BIN))/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/environment.pth"
	@touch $@

lock: environment
	$(BIN)/uv pip compile pyproject.toml --extra train --extra dev --extra export --extra report --extra bench --extra slurm --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-emit-index-url --no-header --custom-compile-command "make lock" --quiet \
	  --output-file requirements.lock

# The wheel is built from the sdist, by the locked hatchling. twine and check-wheel-contents are tools of this one target, so
# uv runs them in an environment of their own, and the lock file stays without their 40 packages.
dist: environment
	rm -rf dist
	$(BIN)/uv build --quiet --no-build-isolation --python $(IN_VENV) --out-dir dist .
	$(BIN)/uv tool run --quiet --from twine==7.0.0 twine --no-color check --strict dist/*.whl dist/*.tar.gz
	$(BIN)/uv tool run --quiet check-wheel-contents==0.6.3 dist/*.whl

release: environment
	@test -z "$$(git status --porcelain)" || { echo "There are changes that are not committed:"; git status --short; exit 2; }
	$(IN_VENV) -m pytest -n 0 -q tests/test_release.py
	$(MAKE) dist
	CONSTRAINTS=requirements.lock UV=$(BIN)/uv PYTHON=$(IN_VENV) .ci/smoke dist/*.whl
	@echo; echo "Nothing was uploaded. What remains, by hand:"
	@sed -n 's/^\(Repository\|Documentation\) = /  \1 is /p' pyproject.toml
	@V=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml); \
	  echo "  git tag v$$V && git push origin v$$V"; \
	  echo "  $(BIN)/uv tool run twine upload dist/ttlightning-$$V*"

environment: $(READY)

# pip installs uv, by its hash; uv installs the other packages, by theirs, six times faster. Where uv cannot reach what
# pip is configured for, pip does it all. The oldest packages are those of the package itself and of training, without
# the benchmark's, which need newer ones. For the CPU, torch and torchvision have the locked versions and no hashes: the
# lock file has those of the builds with CUDA. The other packages have theirs.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}: make PYTHON=python3.12 ...")'
	@case "$(PACKAGES)" in locked | cpu | newest | oldest) ;; *) echo "PACKAGES is $(PACKAGES), it must be locked, cpu, newest or oldest"; exit 2;; esac
	@echo "Making the environment in $(VENV), once: about $(if $(filter cpu,$(PACKAGES)),2,7) GB, a minute or more."
	@$(PYTHON) -m venv --without-pip $(VENV)
	@awk '/^[^ #]/ { keep = /^uv==/ } keep' requirements.lock > $(VENV)/uv.lock
	@$(PYTHON) -m pip --python $(IN_VENV) install --quiet --require-hashes --no-deps -r $(VENV)/uv.lock
ifeq ($(PACKAGES),locked)
	@$(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes --python $(IN_VENV) requirements.lock \
	  || { echo "uv did not succeed: installing with pip."; \
	       $(PYTHON) -m pip --python $(IN_VENV) install --quiet --require-hashes --no-deps -r requirements.lock; }
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(IN_VENV) --editable . \
	  || $(PYTHON) -m pip --python $(IN_VENV) install --quiet --no-deps --no-build-isolation --editable .
else ifeq ($(PACKAGES),cpu)
	@awk '/^[^ #]/ { keep = !/^(torch|torchvision|triton|(nvidia|cuda)-[a-z0-9-]+)==/ } keep' requirements.lock > $(VENV)/cpu.lock
	@sed -n 's/^\(torch\(vision\)*==[^ ]*\) .*/\1/p' requirements.lock > $(VENV)/torch.txt
	@$(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes --python $(IN_VENV) $(VENV)/cpu.lock
	@$(BIN)/uv pip install --quiet --no-deps --torch-backend cpu --python $(IN_VENV) --requirement $(VENV)/torch.txt \
	  || { echo "PyTorch's own index gave no build for the CPU: make environment, without PACKAGES=cpu, needs only your usual index."; exit 1; }
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(IN_VENV) --editable .
else
	@if [ "$(PACKAGES)" = oldest ]; then \
	  $(BIN)/uv pip install --quiet --resolution lowest-direct --python $(IN_VENV) --editable '.[train]'; fi
	@$(BIN)/uv pip install --quiet --python $(IN_VENV) --editable '$(EXTRAS)'
endif
	@touch $@
