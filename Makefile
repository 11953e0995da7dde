# The few commands of this repository. All of them make what they need in .venv; wheels only, no compiler.
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
INSTALL := $(PIP) install --require-hashes --only-binary :all:
EDITABLE := $(PIP) install --no-deps --no-build-isolation --no-index --editable .
ARGS ?=

.PHONY: run test check integration-test bench lock
run: $(VENV)/.run  ## a mesh of three containers on this machine: make run ARGS="--nodes 6"
	@exec $(BIN)/discloud up $(ARGS)

test: $(VENV)/.dev  ## everything that needs no server
	$(BIN)/pytest -q -n 2 --dist loadfile $(ARGS)

check: $(VENV)/.dev  ## style, types and the direction of imports
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy
	$(BIN)/lint-imports

integration-test: $(VENV)/.dev  ## large files through a whole mesh; DISCLOUD_TEST_SCALE=0.1 for a tenth of the sizes
	DISCLOUD_TEST_SCALE=$${DISCLOUD_TEST_SCALE:-1} $(BIN)/pytest -q tests/cluster/test_mesh_files.py $(ARGS)

bench: $(VENV)/.dev  ## the figures of docs/performance.md
	$(BIN)/python -m benchmarks.run $(ARGS)

lock:  ## after a change of pyproject.toml; needs uv
	deploy/lock

$(VENV)/.run: deploy/requirements.txt deploy/requirements-build.txt pyproject.toml
	@deploy/make-venv $(VENV)
	$(INSTALL) -r deploy/requirements.txt -r deploy/requirements-build.txt && $(EDITABLE) && touch $@

$(VENV)/.dev: deploy/requirements-dev.txt pyproject.toml
	@deploy/make-venv $(VENV)
	$(INSTALL) -r deploy/requirements-dev.txt && $(EDITABLE) && touch $@
