"""What a model was trained on, where that limits what it can find: a warning of one line."""

from pathlib import Path
from typing import Any

import yaml

from polyvid.modeling.paths_mmp import is_local_path

DRAWINGS = {"fluent_emoji_9": "drawings of emoji"}
"""Datasets without natural video, and what they hold instead."""


def trained_on_drawings(model: str) -> str | None:
    """A sentence about a model whose training ended with drawings; None for others, and where no recipe says.

    Args:
        model: a folder. A Hub id is not looked up: the card says what its model was trained on.
    """
    if not model or not is_local_path(model):
        return None
    try:
        recipe: Any = yaml.safe_load((Path(model) / "recipe.yaml").read_text(encoding="utf-8"))
        held = DRAWINGS.get(recipe["data"]["dataset"])
    except (OSError, ValueError, TypeError, LookupError, yaml.YAMLError):
        return None
    if held is None:
        return None
    return f"{Path(model).name} was trained on {held} ({recipe['data']['dataset']}): it knows little of natural video."
