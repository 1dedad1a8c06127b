# make demo | test | slow | check | table | bench | bench-large | sanitize. Each does all its own set-up in .venv (Python 3.11+, make, g++).
PYTHON ?= python3
VENV := .venv
JOBS ?= 2
BIN := $(VENV)/bin
CSRC := $(wildcard csrc/*/*.cpp csrc/*/*.h)
NATIVE := CMakeLists.txt pyproject.toml $(CSRC)
# Editable: Python changes need no rebuild; a change in csrc/ does, and make sees it.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test slow check format table bench bench-large sanitize clean

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "abruzzi needs Python 3.11 or newer; $$($(PYTHON) --version) given; hint: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python $(NATIVE)
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(BIN)/python $(NATIVE)
	$(PIP) -e '.[train,serve,tasks,dev]'
	@touch $@ $(VENV)/.run

demo: $(VENV)/.run
	$(BIN)/abruzzi doctor
	$(BIN)/abruzzi run "Walter spends 2 days on the route, doing 100 miles a day. The route is only finished after 258 miles. So how many miles does he have left? Please tell me the answer."

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n $(JOBS) -m "not alone and not slow and not gpu and not net and not clients"
	$(BIN)/python -m pytest -q -m "alone and not slow"

slow: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n $(JOBS) -m "slow and not alone"
	$(BIN)/python -m pytest -q -m "slow and alone"
	$(BIN)/python scripts/mutants.py

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CSRC)
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CSRC)

table: $(VENV)/.dev
	$(BIN)/python scripts/oracle_table.py

# RECORD=DIR keeps what these find. bench takes a few minutes, bench-large (moonlight, 16 B) half an hour and 12 GB.
bench: $(VENV)/.dev
	$(BIN)/python bench/import_time.py
	$(BIN)/python bench/kernels.py
	$(BIN)/python bench/nano_decode.py --tokens 100 --repeats 3
	$(BIN)/python bench/nano_accuracy.py --n 5 --splits trained
	$(BIN)/python bench/shapes.py --shape nano --shape mini --repeat 3 $(if $(RECORD),--out $(RECORD)/shapes.json)

bench-large: $(VENV)/.dev
	$(BIN)/python bench/shapes.py --shape moonlight --repeat 3 $(if $(RECORD),--out $(RECORD)/shapes_large.json)

# Clients that we did not write, in environments of their own (Python, npm); about 4 GB. Needs npm, curl and jq.
$(VENV)-clients/.done: $(wildcard tests/clients/package.json tests/clients/requirements*.txt)
	@for have in npm curl jq; do command -v $$have >/dev/null || { echo "make clients needs $$have; hint: apt-get install npm curl jq"; exit 1; }; done
	$(PYTHON) -m venv $(VENV)-clients
	$(VENV)-clients/bin/python -m pip --disable-pip-version-check install --quiet -r tests/clients/requirements.txt
	$(PYTHON) -m venv $(VENV)-clients-aider
	$(VENV)-clients-aider/bin/python -m pip --disable-pip-version-check install --quiet -r tests/clients/requirements-aider.txt
	npm install --prefix tests/clients --no-audit --no-fund --no-package-lock
	@touch $@

# RECORD=DIR keeps what these find.
clients: $(VENV)/.dev $(VENV)-clients/.done
	$(BIN)/python -m tests.clients.matrix --out $(or $(RECORD),build/clients)
	$(BIN)/python -m tests.clients.agents --out $(or $(RECORD),build/clients)

sanitize: $(VENV)/.dev
	PYTHON=$(BIN)/python bash scripts/sanitize.sh

clean:
	rm -rf $(VENV) $(VENV)-clients $(VENV)-clients-aider tests/clients/node_modules build .pytest_cache .ruff_cache .hypothesis
