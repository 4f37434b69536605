"""Recipes: bases, overrides, and what is refused."""

from pathlib import Path

import pytest

from polyvid.train.recipe import RecipeError, load_recipe, save_recipe

CONFIGS = Path(__file__).parents[2] / "train" / "configs"


@pytest.fixture
def recipe_file(tmp_path):
    def write(text: str, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


COMPLETE = "name: x\noutput_dir: out\ndata: {dataset: fluent_emoji_9, features: f}\n"


def test_defaults_are_the_papers_values_for_fine_tuning(recipe_file):
    recipe = load_recipe(recipe_file(COMPLETE))
    assert (recipe.model.output_layer, recipe.model.freeze_below, recipe.model.embed_dim) == (12, 9, 1024)  # §5.2
    assert (recipe.model.pooler_num_layers, recipe.model.pooler_num_heads, recipe.model.pooler_dropout) == (2, 4, 0.3)
    assert (recipe.training.learning_rate, recipe.training.gradient_clip) == (2e-4, 0.2)  # App. C
    assert (recipe.training.batch_size, recipe.training.epochs) == (128, 10)
    assert (recipe.data.max_text_length, recipe.data.max_video_length) == (96, 36)
    assert (recipe.objective.temperature, recipe.objective.mask_ratio) == (0.1, 0.05)


def test_a_recipe_changes_the_one_it_is_based_on_and_the_command_line_changes_both(recipe_file):
    recipe_file(COMPLETE + "training: {epochs: 3, batch_size: 64}", "base.yaml")
    path = recipe_file("base: base.yaml\nname: y\ntraining: {epochs: 4}")
    recipe = load_recipe(path, ["training.epochs=5", "data.languages=[en,cz]"])
    assert (recipe.name, recipe.training.epochs, recipe.training.batch_size) == ("y", 5, 64)
    assert recipe.data.languages == ["en", "cs"]


def test_a_saved_recipe_reads_back_equal(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file(COMPLETE), ["model.init_from=some/model"])
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert load_recipe(tmp_path / "saved.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (COMPLETE + "training: {epoch: 3}", [], r"no key 'training.epoch'; did you mean 'training.epochs'"),
        (COMPLETE, ["trainig.epochs=3"], r"no key 'trainig'; did you mean 'training'"),
        (COMPLETE, ["training.epochs=many"], r"training.epochs: Value 'many'"),
        (COMPLETE, ["training.epochs"], r"not of the form key=value"),
        (COMPLETE, ["data.languages=[en,tlh]"], r"data.languages: Unknown language 'tlh'"),
        ("name: x\n", [], r"gives no value for data.dataset, data.features, output_dir"),
        ("name: [", [], r"not valid YAML"),
        ("just words", [], r"holds no keys"),
        ("base: missing.yaml", [], r"There is no recipe .*missing.yaml \(the base of .*recipe.yaml\)"),
        ("base: recipe.yaml", [], r"based on itself"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused_in_one_line(recipe_file, text, overrides, message):
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(recipe_file(text), overrides)
    assert "\n" not in str(caught.value)


BASES = ("pretrain.yaml", "finetune.yaml")
RECIPES = [path for path in sorted(CONFIGS.glob("*.yaml")) if path.name not in BASES]
RECIPES += sorted((CONFIGS / "demo").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads(path):
    recipe = load_recipe(path, [f"output_dir={path.stem}"])
    assert path.read_text(encoding="utf-8").startswith("#"), "a recipe begins with a line that says what it is for"
    assert recipe.name
