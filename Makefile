# Everything sets itself up: a .venv in this folder, pinned by constraints.txt.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test docs package benchmark simulate stages fuzz mutations chaos lint types contracts check coverage clean

demo: .venv/run.stamp ## see prompts answered, no key and no network needed
	$(BIN)/orchestrator demo

# One process more than cores: many tests wait for a daemon.
test: .venv/dev.stamp .venv/node.stamp ## run the tests
	$(BIN)/python -m pytest --numprocesses $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )) --dist worksteal

lint: .venv/dev.stamp ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev.stamp
	$(BIN)/mypy

contracts: .venv/dev.stamp ## imports only fall downwards
	$(BIN)/lint-imports

docs: .venv/run.stamp ## rewrite the documents that are drawn from the code
	$(BIN)/python docs/generate.py

coverage: .venv/dev.stamp
	$(BIN)/python -m coverage run -m pytest tests/core tests/store
	$(BIN)/python -m coverage report --include='orchestrator/core/*' --fail-under=100

package: .venv/dev.stamp ## build the sdist, from it the wheel, and run that in an empty environment outside the clone
	rm -rf dist
	$(BIN)/python -m build --quiet
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(PYTHON) -m venv "$$folder/venv" \
		&& tar -xzf dist/*.tar.gz -C "$$folder" && cp dist/*.whl "$$folder" && cd "$$folder" \
		&& venv/bin/python -m pip install --quiet --disable-pip-version-check -c orchestrator-*/constraints.txt ./*.whl \
		&& test -f venv/lib/python*/site-packages/orchestrator/py.typed \
		&& cp orchestrator-*/config.example.toml orchestrator.toml \
		&& venv/bin/orchestrator migrate && TMPDIR="$$folder" venv/bin/orchestrator demo \
		&& DOUBLEWORD_API_KEY=unused venv/bin/python -m orchestrator run --until-idle

SEEDS ?= 2000
SIZE ?= short
ON ?= sqlite
simulate: .venv/dev.stamp ## live through SEEDS seeds under virtual time, with all that can go wrong; SIZE=large, ON=postgresql
	$(BIN)/python tests/simulation/simulate.py --seeds 1-$(SEEDS) $(if $(filter short,$(SIZE)),--short) $(if $(filter postgresql,$(ON)),--postgresql)

stages: .venv/dev.stamp ## every test of the stages on both databases, those of the providers' ways too
	STAGES_ON_BOTH=1 $(BIN)/python -m pytest tests/stages --numprocesses auto --dist worksteal

FUZZ ?= 50
fuzz: .venv/dev.stamp ## try the properties of tests/fuzz FUZZ times as often, each time with new examples
	FUZZ_FACTOR=$(FUZZ) $(BIN)/python -m pytest tests/fuzz --timeout 0

mutations: .venv/dev.stamp ## break each guard by one line and see that the tests notice
	$(BIN)/python tests/simulation/mutations.py

KILLS ?= 200
chaos: .venv/dev.stamp ## do the worst to real daemons for some fifteen minutes, KILLS kills among it; a table at the end
	CHAOS_KILLS=$(KILLS) $(BIN)/python -m pytest tests/chaos --timeout 1800 --durations 40

benchmark: .venv/run.stamp ## figures beside their floors; see docs/performance.md
	for one in whole_loop compared memory intake pruning upload collection idle startup postgresql; do $(BIN)/python benchmarks/$$one.py || exit 1; done

check: test lint types contracts demo ## what the gate runs

.venv/pyvenv.cfg:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv .venv

.venv/run.stamp: .venv/pyvenv.cfg pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/dev.stamp: .venv/pyvenv.cfg pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# The SDK for Node.js, which tests drive; the dev extra brings node and npm.
.venv/node.stamp: .venv/dev.stamp tests/clients/node/package.json
	$(BIN)/python tests/clients/node/install.py
	touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage tests/clients/node/node_modules
