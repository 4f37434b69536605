"""Recipes: bases, overrides, and what is refused."""

from pathlib import Path

import pytest

from polyvid.train.recipe import differences, load_recipe, save_recipe
from polyvid.train.recipe_files import CONFIGS, RecipeError, shipped_recipes


@pytest.fixture
def recipe_file(tmp_path):
    def write(text: str, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


COMPLETE = "name: x\noutput_dir: out\ndata: {dataset: fluent_emoji_9, features: f}\n"
TEXTS = (
    "name: x\noutput_dir: out\nobjective: {terms: [align]}\n"
    "data: {texts_only: true, parallel_texts: t.tsv, pivots: true, languages: [en, de], validation_split: null}\n"
)


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


def test_what_a_recipe_for_ones_own_data_need_not_say(recipe_file):
    """No features, since they are made; languages, power and layers, since the data and the model say them."""
    own = "name: x\noutput_dir: out\ndata: {dataset: ./my_folder, languages: [all], feature_power: null}\n"
    recipe = load_recipe(recipe_file(own), ["data.columns.de=German", "model.freeze_below=null"])
    assert recipe.data.features is None and recipe.data.languages == ["all"] and recipe.data.columns == {"de": "German"}
    with pytest.raises(RecipeError, match="gives no value for data.features"):
        load_recipe(recipe_file(own), ["data.dataset=vtt"])
    assert load_recipe(recipe_file(own), ["data.dataset=vtt", "data.features=f"]).data.dataset == "msrvtt"
    one, other = load_recipe(recipe_file(own)), load_recipe(recipe_file(own), ["data.columns.de=German"])
    assert differences(one, other) == ["data.columns is {} there and {'de': 'German'} here"]


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
        (COMPLETE, ["data.languages=[en,xx]"], r"data.languages: Unknown language 'xx'"),
        ("name: x\n", [], r"gives no value for data.dataset, data.features, output_dir"),
        ("name: [", [], r"not valid YAML"),
        ("just words", [], r"there is no key 'just words'"),
        ("[1, 2]", [], r"holds no keys"),
        ("5", [], r"holds no keys"),
        ("base: missing.yaml", [], r"There is no recipe .*missing.yaml \(the base of .*recipe.yaml\)"),
        ("base: recipe.yaml", [], r"based on itself"),
        ("base: 5", [], r"recipe.yaml: base is 5, but must be the file of another recipe"),
        (COMPLETE + "model: {backbone: '${nothing}'}", [], r"recipe.yaml: model.backbone: .*'nothing' not found"),
        (COMPLETE + "model: {backbone: '${'}", [], r"recipe.yaml: model.backbone: "),
        (COMPLETE + "model: {backbone: '${model.backbone}'}", [], r"in a circle|Recursive interpolation"),
        (COMPLETE, ["training.seed=-1"], "training.seed must lie between 0 and 4 billion, but is -1"),
        (COMPLETE, ["data.max_text_length=2"], "data.max_text_length must be at least 3 tokens, not 2"),
        (COMPLETE, ["data.max_video_length=0"], "data.max_video_length must be at least 1 second, not 0"),
        (COMPLETE, ["data.noise_cycle=0"], "data.noise_cycle must be at least 1 epoch, or null, not 0"),
        (COMPLETE, ["objective.terms=[align]"], "objective.terms=align needs translations: set data.pivots=true"),
        (TEXTS, ["data.languages=[de,fr]", "objective.terms=[teach]"], "teach needs en in data.languages"),
        (TEXTS, ["model.lock_text=true"], "align trains the text tower: set model.lock_text=false"),
        (TEXTS, ["objective.terms=[align,inter]"], "inter needs videos, which data.texts_only leaves out"),
        (TEXTS, ["objective.terms=[intra]"], "data.texts_only needs align or teach in objective.terms"),
        (TEXTS, ["objective.align_weight=0"], "objective.align_weight must be greater than 0, not 0.0"),
        (COMPLETE, ["data.parallel_texts=t.tsv"], "data.parallel_texts has no videos: it needs data.texts_only=true"),
        (TEXTS, ["data.parallel_texts=null"], "gives no value for data.dataset"),
        (TEXTS, ["data.validation_split=validation"], "it needs data.dataset and data.features; null keeps"),
        (TEXTS, ["data.clips=somewhere"], "subtitles of clips are no translations|pivots needs captions"),
        (COMPLETE, ["objective.terms=[inter,distill]"], "need each other: name one model or more"),
        (COMPLETE, ["objective.distill_teachers=[m]"], "need each other: add distill to the terms"),
        (TEXTS, ["objective.terms=[align,distill]", "objective.distill_teachers=[m]"], "distill needs videos"),
        (COMPLETE, ["model.backbone=[a"], r"Command line, model.backbone=\[a"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused_in_one_line(recipe_file, text, overrides, message):
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(recipe_file(text), overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["${oc.env:SECRET}", "x-${oc.env:SECRET,none}", "${a.${oc.env:SECRET}}", "${${x}:y}"])
def test_a_recipe_reads_no_environment_variables_and_calls_no_resolvers(recipe_file, value, monkeypatch):
    monkeypatch.setenv("SECRET", "hidden")
    for text, key in (
        (f"name: '{value}'\n", "name"),
        (f"data: {{languages: [en, '{value}']}}\n", "data.languages"),
        (f"base: '{value}'\n", "base"),
    ):
        with pytest.raises(RecipeError, match=f"recipe.yaml: {key} is .*refer only to their own keys") as caught:
            load_recipe(recipe_file(text))
        assert "hidden" not in str(caught.value)
    with pytest.raises(RecipeError, match="Command line: model.backbone is"):
        load_recipe(recipe_file(COMPLETE), [f"model.backbone={value}"])


def test_a_value_may_refer_to_another_key(recipe_file):
    recipe = load_recipe(recipe_file("name: x\noutput_dir: outputs/${name}\ndata: {clips: c}\n"))
    assert recipe.output_dir == "outputs/x"


@pytest.mark.parametrize("name", ["../../evil", "a/b", "/tmp/x", "..", "", "a\\b", "a\nb"])
def test_a_name_is_a_name(recipe_file, name):
    with pytest.raises(RecipeError, match="name is .*letters, digits"):
        load_recipe(recipe_file(COMPLETE), [f'name="{name}"'.replace("\\", "\\\\").replace("\n", "\\n")])


def test_a_base_stays_within_the_recipes_own_folders(recipe_file, tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    recipe_file(COMPLETE, "outer.yaml")
    path = recipe_file("base: ../outer.yaml\n", "inner/recipe.yaml")
    with pytest.raises(RecipeError, match=r"base '../outer.yaml' is outside of .*inner"):
        load_recipe(path)
    monkeypatch.chdir(tmp_path)  # in one's own working folder, folders may share a base
    assert load_recipe(path).name == "x"
    (tmp_path / "inner" / "link.yaml").symlink_to("/etc/hostname")
    with pytest.raises(RecipeError, match="is outside of"):
        load_recipe(recipe_file("base: link.yaml\n", "inner/recipe.yaml"))


def test_a_recipe_that_ships_is_named_from_anywhere(recipe_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe("demo/mmp") == load_recipe("demo/mmp.yaml") == load_recipe(CONFIGS / "demo" / "mmp.yaml")
    assert load_recipe(recipe_file("base: vtt_en\nname: mine\n")).data.dataset == "msrvtt"
    with pytest.raises(RecipeError, match="no recipe demo/mmmp.*did you mean demo/mmp.*These ship: .*demo/finetune "):
        load_recipe("demo/mmmp")
    with pytest.raises(RecipeError, match="no recipe ablation/vtt"):
        load_recipe("ablation/vtt")
    with pytest.raises(RecipeError, match="no recipe"):
        load_recipe("../configs/vtt_en")


def test_a_file_in_the_working_folder_comes_before_a_recipe_that_ships(recipe_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe_file(COMPLETE.replace("name: x", "name: mine"), "vtt_en.yaml")
    assert load_recipe("vtt_en.yaml").name == "mine"


BASES = ("pretrain", "finetune")


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name not in BASES])
def test_every_shipped_recipe_loads(name):
    recipe = load_recipe(name, [f"output_dir={Path(name).name}"])
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("#"), "a recipe begins with a line that says what it is for"
    assert recipe.name
