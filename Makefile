PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo demo-seeds app test test-fast browser lint clean

# One marker file stands for "installed": it is older than what it depends on only when a pin or the package changed.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m polyvid.train.demo.run

demo-seeds: $(VENV)/installed
	$(BIN)/python -m polyvid.train.demo.seeds

app: $(VENV)/installed
	$(BIN)/polyvid demo-app

test: $(VENV)/installed browser
	$(BIN)/python -m pytest

test-fast: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow"

# The page of the demo app is tested in Debian's Chromium. Only root can install it; without it that test is skipped.
browser:
	@{ command -v chromium && command -v chromedriver; } >/dev/null \
	|| { test "$$(id -u)" = 0 && apt-get update -qq \
	     && apt-get install -qq -y --no-install-recommends chromium chromium-driver; } >/dev/null 2>&1 \
	|| echo "No Chromium: the page of the demo app is not tested. On Debian: apt-get install chromium chromium-driver"

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) outputs
