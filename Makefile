# The few commands of this repository. All of them make what they need in .venv; wheels only, no compiler.
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
INSTALL := $(PIP) install --require-hashes --only-binary :all:
EDITABLE := $(PIP) install --no-deps --no-build-isolation --no-index --editable .
ARGS ?=
USE ?=
INTEGRATION := tests/cluster/$(if $(USE),test_use_$(subst -,_,$(USE)),test_mesh_files).py

.PHONY: run test alone check integration-test cluster bench servers lock
run: $(VENV)/.run  ## a mesh of three containers on this machine: make run ARGS="--nodes 6"
	@exec $(BIN)/discloud up $(ARGS)

test: $(VENV)/.dev  ## everything but the full-size runs and `make alone`; starts Redis and Cassandra where it can
	$(BIN)/pytest -q -n 2 --dist loadfile -m "not alone" $(ARGS)

alone: $(VENV)/.dev  ## the uses, and the faults of a whole cluster, one after the other
	$(BIN)/pytest -q -m alone $(ARGS)

check: $(VENV)/.dev  ## style, types and the direction of imports
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy
	$(BIN)/lint-imports

integration-test: $(VENV)/.dev  ## large files through a whole mesh, a tenth with DISCLOUD_TEST_SCALE=0.1; USE=cdn tests that use
	DISCLOUD_TEST_SCALE=$${DISCLOUD_TEST_SCALE:-1} $(BIN)/pytest -q $(INTEGRATION) $(ARGS)

cluster: $(VENV)/.dev  ## a use with real Redis and Cassandra and slow links: make cluster USE=corporate|cdn|user-data
	@exec $(BIN)/python -m tests.support.cluster $(USE)

bench: $(VENV)/.dev  ## the figures of docs/performance.md
	$(BIN)/python -m benchmarks.run $(ARGS)

servers: $(VENV)/.dev  ## keeps the Cassandra that tests share, until Ctrl-C: test runs then need not start it
	@exec $(BIN)/python -m tests.support.servers

lock:  ## after a change of pyproject.toml; needs uv
	deploy/lock

$(VENV)/.run: deploy/requirements.txt deploy/requirements-build.txt pyproject.toml
	@deploy/make-venv $(VENV)
	$(INSTALL) -r deploy/requirements.txt -r deploy/requirements-build.txt && $(EDITABLE) && touch $@

$(VENV)/.dev: deploy/requirements-dev.txt pyproject.toml
	@deploy/make-venv $(VENV)
	$(INSTALL) -r deploy/requirements-dev.txt && $(EDITABLE) && touch $@
