"""Every recipe of the paper, end to end on generated data of the right format, with a tiny backbone."""

import json

import pytest
import torch
from safetensors.torch import load_file
from training_data import CONFIGS, overrides, write_everything
from transformers import AutoModel

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.loop.setup import build_trainer
from polyvid.train.loop.step_log import read_steps
from polyvid.train.recipe import load_recipe
from polyvid.train.recipe_files import RecipeError
from polyvid.train.train import main

FINE_TUNING = ("vtt_en", "vtt_translated", "vatex_en", "vatex_en_zh", "m30k_en", "m30k_all")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_everything(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def mmp(folder):
    """A model pre-trained by the recipe `mmp`."""
    main(CONFIGS / "mmp.yaml", overrides(folder, "mmp", folder / "mmp"))
    return folder / "mmp"


def test_recipes_carry_the_values_of_the_paper():
    recipes = {name: load_recipe(CONFIGS / f"{name}.yaml") for name in ("mmp", "mp", *FINE_TUNING)}
    for name, recipe in recipes.items():
        pretraining = name in ("mmp", "mp")
        assert recipe.name == name and recipe.model.backbone == "FacebookAI/xlm-roberta-large"
        assert (recipe.training.batch_size, recipe.training.epochs) == ((64, 16) if pretraining else (128, 10))
        lengths = (recipe.data.max_text_length, recipe.data.max_video_length)
        assert lengths == ((192, 128) if pretraining else (96, 36))
        assert (recipe.data.validation_split is None) == pretraining
        assert recipe.data.pivots == (name in ("vtt_translated", "vatex_en_zh", "m30k_all"))
    assert len(recipes["mmp"].data.languages) == len(recipes["vtt_translated"].data.languages) == 9
    assert recipes["m30k_all"].data.languages == ["en", "de", "fr", "cs"]


def test_streamed_clips_are_not_grouped_by_length():
    with pytest.raises(RecipeError, match="training.group_by_length needs captions"):
        load_recipe(CONFIGS / "mmp.yaml", ["training.group_by_length=true"])


def test_streamed_clips_are_not_grouped_by_a_column():
    with pytest.raises(RecipeError, match="training.group_by needs captions, and training.group_by_length=false"):
        load_recipe(CONFIGS / "mmp.yaml", ["training.group_by=family"])


def test_pretraining_streams_clips_in_every_language_and_keeps_the_last_model(mmp):
    steps = read_steps(mmp / "steps.jsonl")
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1)) and len(steps) >= 2
    assert set(steps[0]) == {"step", "epoch", "learning_rate", "loss", "inter", "intra", "gradient_norm"}
    assert "R@1" not in json.loads((mmp / "trainer_state.json").read_text())["history"][0]
    assert (mmp / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_pretraining_on_english_alone(folder, tmp_path):
    main(CONFIGS / "mp.yaml", overrides(folder, "mp", tmp_path / "out", training__num_workers=1))
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("recipe", FINE_TUNING)
def test_fine_tuning_from_a_pretrained_model_or_from_scratch(recipe, folder, mmp, tmp_path):
    for init_from in (mmp, "null") if recipe == "m30k_all" else (mmp,):
        output = tmp_path / ("scratch" if init_from == "null" else "pretrained")
        main(CONFIGS / f"{recipe}.yaml", overrides(folder, recipe, output, model__init_from=init_from))
        steps = read_steps(output / "steps.jsonl")
        pivots = recipe in ("vtt_translated", "vatex_en_zh", "m30k_all")
        assert ("cross" in steps[0]) == pivots
        [entry] = json.loads((output / "trainer_state.json").read_text())["history"]
        languages = load_recipe(CONFIGS / f"{recipe}.yaml").data.validation_languages
        assert {f"R@1 {language}" for language in languages} <= set(entry)
        model = AutoModel.from_pretrained(output)
        assert (model.config.image_feature_dim is not None) == recipe.startswith("m30k")
        before = load_file(mmp / "model.safetensors")["text_model.embeddings.word_embeddings.weight"]
        assert torch.equal(model.text_model.embeddings.word_embeddings.weight, before)  # frozen all along


def test_the_image_projection_learns_twice_as_fast(folder, mmp, tmp_path):
    changes = overrides(folder, "m30k_en", tmp_path, model__init_from=mmp)
    trainer = build_trainer(load_recipe(CONFIGS / "m30k_en.yaml", changes))
    rates = {id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert rates[id(trainer.model.image_projection.weight)] == 2 * rates[id(trainer.model.video_projection.weight)]


def test_a_model_of_another_shape_is_refused(folder, mmp, tmp_path):
    changes = overrides(folder, "vtt_en", tmp_path, model__init_from=mmp, model__embed_dim=32)
    with pytest.raises(PolyvidError, match=r"embed_dim=16, but the recipe sets model.embed_dim=32"):
        main(CONFIGS / "vtt_en.yaml", changes)


def test_translations_that_are_not_there_are_refused(folder, tmp_path):
    changes = overrides(folder, "vtt_translated", tmp_path, data__translations="null")
    with pytest.raises(PolyvidError, match="no human captions in de fr cs zh ru vi sw es: pass translations="):
        main(CONFIGS / "vtt_translated.yaml", changes)


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(folder, tmp_path, capsys):
    main(CONFIGS / "vtt_en.yaml", overrides(folder, "vtt_en", tmp_path / "out"), dry_run=True)
    said = capsys.readouterr().out
    assert "learning_rate: 0.0002" in said
    assert "120 pairs of text and video an epoch" in said and "2 videos, captions: 40 en" in said
    assert "15 (15 an epoch, 1 epochs)" in said
    assert "GiB at the peak" in said
    assert not (tmp_path / "out").exists()
