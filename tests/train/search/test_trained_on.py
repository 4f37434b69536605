"""A search says where its model was trained on drawings alone."""

import pytest

from polyvid.train.search.trained_on import trained_on_drawings


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (
            "data: {dataset: fluent_emoji_9}",
            "model was trained on drawings of emoji (fluent_emoji_9): it knows little of natural video.",
        ),
        ("data: {dataset: msrvtt}", None),
        ("data: {clips: joined}", None),
        ("- no recipe", None),
        ("a: [", None),
        (None, None),
    ],
)
def test_what_a_recipe_says(recipe, expected, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    if recipe is not None:
        (folder / "recipe.yaml").write_text(recipe)
    assert trained_on_drawings(str(folder)) == expected


def test_models_of_the_hub_are_not_looked_up():
    assert trained_on_drawings("lab/model") is None
    assert trained_on_drawings("") is None
