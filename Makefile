PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PACKAGE := __init__.py __main__.py py.typed modeling dataset_scripts train hub_cards
CPU ?= default
THREADS ?= 1
MINUTES ?= 60
SEED ?= 0
MODELS ?=
SEEDS ?=
GPU ?=

.PHONY: demo demo-seeds leaderboard app docs test test-fast test-all attack lint types browser wheel check-tag gpu test-ecosystem test-lowest test-newest test-setting clean

# A marker file stands for each extra that is installed; it is out of date when a pin or the package changed.
$(VENV)/has-%: pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$*]'
	touch $@

demo: $(VENV)/has-demo
	$(BIN)/polyvid demo

demo-seeds: $(VENV)/has-demo
	$(BIN)/python -m polyvid.train.demo.seeds

# Closed forms and models on other styles of drawing and on photos; the first run fetches 170 MB from npm and Debian.
# `make leaderboard SEEDS=3` trains the models, too (hours; resumes).
leaderboard: $(VENV)/has-demo $(VENV)/has-open-data
	$(BIN)/python -m polyvid.train.demo.leaderboard $(addprefix --model ,$(MODELS)) $(addprefix --seeds ,$(SEEDS))

app: $(VENV)/has-space
	$(BIN)/polyvid demo-app

# Guides and reference as a site, into outputs/site. A broken link or an undocumented page is an error.
docs: $(VENV)/has-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -f hub_cards/mkdocs.yml

# What continuous integration runs, less its job `ecosystem`: style, types, then all tests.
test: lint types test-all

test-all: $(VENV)/has-test browser
	$(BIN)/python -m pytest $(PYTEST)

test-fast: $(VENV)/has-test
	$(BIN)/python -m pytest -m "not slow" $(PYTEST)

# All attacks in their long form, each for its share of the time; ends with a table of what was tried and what failed:
# `make attack MINUTES=60 SEED=1`. In an hour each command is killed at least 20 times, even if that takes longer;
# POLYVID_ATTACK_KILLS=N in the environment asks for N, in a run of any length.
attack: $(VENV)/has-test
	POLYVID_ATTACK_MINUTES=$(MINUTES) POLYVID_ATTACK_SEED=$(SEED) $(BIN)/python -m pytest tests/attack -v $(PYTEST)

# Is everything right on this GPU, and how fast is it? A table into outputs/gpu; without a GPU, small sizes on
# the CPU. A part of it: `make gpu GPU="--only search"`.
gpu: $(VENV)/has-test
	$(BIN)/python tests/benchmarks/gpu $(GPU)

lint: $(VENV)/has-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The checkout is the package whatever its folder is called: mypy sees it through links.
types: $(VENV)/has-test
	rm -rf build/types
	mkdir -p build/types/polyvid
	for name in $(PACKAGE); do ln -s "$(CURDIR)/$$name" build/types/polyvid/$$name; done
	$(BIN)/mypy --cache-dir $(VENV)/mypy

# The page of the demo app is tested in Debian's Chromium. Only root can install it; without it that test is skipped.
browser:
	@{ command -v chromium && command -v chromedriver; } >/dev/null \
	|| { test "$$(id -u)" = 0 && apt-get update -qq \
	     && apt-get install -qq -y --no-install-recommends chromium chromium-driver; } >/dev/null 2>&1 \
	|| echo "No Chromium: the page of the demo app is not tested. On Debian: apt-get install chromium chromium-driver"

wheel: $(VENV)/has-test
	rm -rf build/lib build/bdist.* dist
	$(BIN)/python -m build --outdir dist

# Refuses a tag that is not the version: `make check-tag TAG=v0.1.0`.
check-tag:
	test "$(TAG)" = "v$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)"

# Other libraries that load our models, notebooks, and agents that talk to the app by MCP: some of them are not among
# the packages of `make test`.
ECOSYSTEM := tests/hub_cards/test_from_the_hub.py tests/hub_cards/test_mteb.py tests/hub_cards/test_notebooks.py \
	tests/hub_cards/test_own_videos.py tests/hub_cards/test_space.py::test_agents_find_the_two_searches_as_tools \
	tests/hub_cards/test_scripts.py tests/modeling/test_sentence_transformer.py tests/train/search/test_lance_embeddings.py
test-ecosystem:
	$(PYTHON) -m venv .venv-ecosystem
	.venv-ecosystem/bin/python -m pip install --quiet -c constraints.txt -e '.[test,mcp,mteb,notebooks]'
	.venv-ecosystem/bin/python -m pytest $(ECOSYSTEM) $(PYTEST)

# The lowest versions that pyproject.toml allows, and the newest there are. Both in environments of their own.
test-lowest: browser
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet 'uv>=0.5'
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest --resolution lowest-direct -e '.[test]'
	.venv-lowest/bin/python -m pytest $(PYTEST)

test-newest: browser
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade -e '.[test]'
	.venv-newest/bin/python -m pytest $(PYTEST)

# One setting of the machine, in random order and next to a busy core: `make test-setting CPU=avx2 THREADS=2`.
test-setting: $(VENV)/has-test browser
	( while :; do :; done ) & busy=$$!; trap "kill $$busy" EXIT; \
	ATEN_CPU_CAPABILITY=$(CPU) OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -p randomly $(PYTEST)

clean:
	rm -rf $(VENV) .venv-lowest .venv-newest .venv-ecosystem build dist outputs *.egg-info
