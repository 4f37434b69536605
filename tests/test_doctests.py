"""Examples in docstrings print what they say. Those that need a trained model or a download are not doctests."""

import doctest
from importlib import import_module

import pytest
from test_structure import MODULES, ROOT

WITH_EXAMPLES = sorted(name for name, file in MODULES.items() if ">>> " in file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name, monkeypatch):
    monkeypatch.chdir(ROOT)  # some name files of the checkout
    tried = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert tried.attempted and not tried.failed
