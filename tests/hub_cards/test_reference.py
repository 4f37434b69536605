"""The reference lists every command, recipe key and public class, in the words of the source."""

from pathlib import Path

import pytest

from polyvid.hub_cards.docs import reference
from polyvid.modeling import __all__ as public_names
from polyvid.train.cli import COMMANDS


def test_the_reference_in_the_repository_is_the_one_the_source_gives():
    assert reference.REFERENCE.read_text(encoding="utf-8") == reference.render(), (
        "run `python -m polyvid.hub_cards.docs.reference` and commit hub_cards/docs/reference.md"
    )


def test_commands_keys_and_classes_are_all_there():
    text = reference.REFERENCE.read_text(encoding="utf-8")
    assert all(f"### `polyvid {name}`" in text for name in COMMANDS)
    assert "| `training.learning_rate` | float | `0.0002` |" in text
    assert "| `data.languages` | list[str] | `['en']` |" in text
    assert all(f"**`{name}" in text for name in public_names if name[0].isupper())


def test_a_class_without_docstring_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    path = tmp_path / "train" / "new.py"
    path.parent.mkdir()
    path.write_text('"""A module."""\n\nclass Sampler:\n    def __init__(self, seed: int = 0): ...\n')
    with pytest.raises(ValueError, match="polyvid.train.new.Sampler is not documented"):
        reference.module(path)
    path.write_text(path.read_text().replace("Sampler:\n", 'Sampler:\n    """Draws."""\n\n'))
    assert reference.module(path) == "### `polyvid.train.new`\n\nA module.\n\n- **`Sampler(seed: int=0)`** Draws."


def test_the_readme_links_to_it():
    readme = Path(__file__).parents[2] / "README.md"
    assert "(hub_cards/docs/reference.md)" in readme.read_text(encoding="utf-8")
