"""From a recipe to a trainer: what the seed decides, what a pre-trained model brings along, and what is refused."""

import shutil

import pytest
import torch
from training_data import CONFIGS, VIDEO_DIM, overrides, write_everything
from transformers import AutoModel, AutoProcessor

from polyvid.train.loop.setup import build_trainer
from polyvid.train.loop.trainer import Stopped, Trainer
from polyvid.train.recipe import Recipe, load_recipe

SHAPE = ("output_layer", "embed_dim", "video_feature_dim")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_everything(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def pretrained(folder):
    """On streamed clips, normalised; temperature and mask ratio are not the defaults."""
    output = folder / "pretrained"
    more = {"data__normalize_features": True, "objective__temperature": 0.07, "objective__mask_ratio": 0.2}
    build_trainer(recipe(folder, "mmp", output, training__batch_size=4, **more)).fit()
    return output


def recipe(folder, name: str, output, shape: bool = True, **changes) -> Recipe:
    settings = overrides(folder, name, output, **changes)
    if not shape:
        settings = [one for one in settings if one.split("=")[0].removeprefix("model.") not in SHAPE]
    return load_recipe(CONFIGS / f"{name}.yaml", settings)


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_the_seed_decides_the_weights(folder, tmp_path):
    def first_weights(seed: int):
        torch.manual_seed(torch.seed() % 1000)  # whatever was drawn before
        return weights_of(build_trainer(recipe(folder, "vtt_en", tmp_path / "out", training__seed=seed)))

    first, again, other = first_weights(3), first_weights(3), first_weights(4)
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert not torch.equal(other["video_projection.weight"], first["video_projection.weight"])


def test_a_run_killed_before_its_first_checkpoint_starts_as_the_same_run(folder, tmp_path):
    settings = dict(training__epochs=1, data__validation_split="null", data__frozen_states=tmp_path / "states")
    whole = build_trainer(recipe(folder, "vtt_en", tmp_path / "whole", **settings))
    whole.fit()
    killed = build_trainer(recipe(folder, "vtt_en", tmp_path / "killed", **settings))
    for batch in killed.batches.read(0, 0):
        killed.training_step(batch)
    again = build_trainer(recipe(folder, "vtt_en", tmp_path / "killed", **settings))
    again.fit()
    expected = weights_of(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(again).items())


def test_a_saved_model_knows_the_temperature_and_the_mask_ratio_it_was_trained_with(pretrained):
    config = AutoModel.from_pretrained(pretrained).config
    assert (config.temperature, config.mask_ratio) == (0.07, 0.2)


def test_streamed_clips_are_normalised_and_the_statistics_stay_with_the_model(folder, pretrained, tmp_path):
    extractor = AutoProcessor.from_pretrained(pretrained).feature_extractor
    assert len(extractor.feature_mean) == VIDEO_DIM and min(extractor.feature_std) > 0
    changes = {"model__init_from": pretrained, "data__normalize_features": True}
    trainer = build_trainer(recipe(folder, "vtt_en", tmp_path / "out", **changes))
    assert trainer.processor.feature_extractor.feature_mean == extractor.feature_mean  # not those of VTT
    trainer = build_trainer(recipe(folder, "vtt_en", tmp_path / "out", model__init_from=pretrained))
    assert trainer.processor.feature_extractor.feature_mean == extractor.feature_mean  # the recipe need not say so


def test_normalising_the_input_of_a_model_that_was_trained_without_is_refused(folder, tmp_path):
    plain = tmp_path / "plain"
    build_trainer(recipe(folder, "vtt_en", plain)).fit()
    with pytest.raises(ValueError, match="was trained on features that were not normalised"):
        build_trainer(recipe(folder, "vtt_en", tmp_path / "out", model__init_from=plain, data__normalize_features=True))


def test_a_recipe_need_not_repeat_the_shape_of_the_model_it_starts_from(folder, pretrained, tmp_path):
    settings = recipe(folder, "vtt_en", tmp_path / "out", shape=False, model__init_from=pretrained)
    assert settings.model.embed_dim is None
    trainer = build_trainer(settings)
    assert (trainer.model.config.embed_dim, settings.model.embed_dim) == (16, 16)
    trainer.stop_requested = True
    with pytest.raises(Stopped):
        trainer.fit()
    saved = load_recipe(trainer.checkpoints.to_resume() / "recipe.yaml")
    assert saved.model.embed_dim == 16 and saved == settings  # complete, and taken for the same when resumed
    with pytest.raises(ValueError, match="has embed_dim=16, but the recipe sets model.embed_dim=32: remove it"):
        build_trainer(recipe(folder, "vtt_en", tmp_path / "out", model__init_from=pretrained, model__embed_dim=32))
    shutil.rmtree(tmp_path / "out")


def test_shipped_recipes_show_additional_pairs_and_the_demo_pretrains_on_one_language_for_each_clip():
    assert load_recipe(CONFIGS / "vtt_translated.yaml").data.epoch_unit == "pairs"
    assert load_recipe(CONFIGS / "demo" / "mmp_pretrain.yaml").data.epoch_unit == "sentences"
    assert not load_recipe(CONFIGS / "vtt_en.yaml").objective.mask_same_video
    assert load_recipe(CONFIGS / "demo" / "mmp_pretrain.yaml").objective.mask_same_video


def test_a_stream_whose_frozen_states_are_kept_resumes_at_the_next_clip(folder, tmp_path):
    """Batches that are read ahead of the first step moved its position on: the resumed run missed their clips."""

    def trainer(output: str) -> Trainer:
        states = {"data__frozen_states": tmp_path / f"states_of_{output}"}
        return build_trainer(recipe(folder, "mmp", tmp_path / output, training__batch_size=4, **states))

    (whole := trainer("whole")).fit()
    assert whole.progress.step > 4
    stopped = trainer("stopped")
    take_step = stopped.training_step

    def stop_after_two(batch):
        take_step(batch)
        stopped.stop_requested = stopped.progress.step == 2

    stopped.training_step = stop_after_two
    with pytest.raises(Stopped):
        stopped.fit()
    (resumed := trainer("stopped")).fit()
    assert all(torch.equal(weights_of(resumed)[name], value) for name, value in weights_of(whole).items())
