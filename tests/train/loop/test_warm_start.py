"""A warm start ranks as the closed form does before a single step, and training goes on from there."""

import numpy as np
import pytest
import torch
from emoji_features import write_features
from tiny_trainer import videos_and_features
from torch.nn import functional as F
from training_data import CONFIGS
from transformers import AutoModel

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.loop.setup import build_trainer
from polyvid.train.loop.warm_start import (
    Captions,
    correct_video_projection,
    mean_inputs,
    mean_start,
    set_landmarks,
    warm_start,
)
from polyvid.train.recipe import load_recipe
from polyvid.train.recipe_files import RecipeError
from polyvid.train.scoring.sentences import SentenceVectors
from tiny import tiny_model, tiny_processor


@pytest.fixture
def parts():
    """A new model whose whole backbone is frozen, and 16 clips with captions."""
    videos, features = videos_and_features()
    model, processor = tiny_model(freeze_below=3), tiny_processor()
    return model, processor, Captions.of(videos, features), features, SentenceVectors(model, processor)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_text_tower_starts_as_the_whitened_mean_of_tokens(parts):
    model, processor, captions, features, sentence_vectors = parts
    warm_start(*parts)
    vectors = sentence_vectors(captions.texts).astype(np.float64)
    centred = vectors - vectors.mean(0)
    values, directions = np.linalg.eigh(centred.T @ centred)
    values = np.maximum(values, 1e-6 * values[-1])
    expected = unit(centred @ directions * values**-0.25)
    found = unit(model.encode_texts(captions.texts, processor).numpy())
    # 15 differences of 16 captions fit into 15 components, so that nothing is lost.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=0.1)


@pytest.mark.parametrize("kernel_size", [None, 12])
def test_step_0_ranks_as_ridge_regression(parts, kernel_size):
    model, processor, captions, features, _ = parts
    if kernel_size is not None:
        model = tiny_model(freeze_below=3, video_kernel_size=kernel_size)
        set_landmarks(model, processor, captions.video_ids, features)
    sentence_vectors = SentenceVectors(model, processor)
    warm_start(model, processor, captions, features, sentence_vectors, penalty=0.5)

    clips = [features[video_id] for video_id in captions.video_ids]
    inputs = mean_inputs(model, processor, clips)
    targets = unit(model.encode_texts(captions.texts, processor).double().numpy())
    penalty = 0.5 * (inputs**2).sum() / len(inputs)
    weights = np.linalg.inv(inputs.T @ inputs + penalty * np.eye(inputs.shape[1])) @ inputs.T @ targets
    found = model.encode_videos(clips, processor).double().numpy()
    np.testing.assert_allclose(targets @ unit(found).T, targets @ unit(inputs @ weights).T, atol=0.1)


def test_differences_between_captions_of_a_clip_are_scaled_down(parts):
    model, processor, captions, features, sentence_vectors = parts
    pairs = Captions(captions.video_ids * 2, captions.texts + captions.texts[::-1])
    warm_start(model, processor, pairs, features, sentence_vectors)
    several = unit(model.encode_texts(captions.texts, processor).numpy())
    warm_start(model, processor, captions, features, sentence_vectors)
    one = unit(model.encode_texts(captions.texts, processor).numpy())
    same_clip = np.arange(16), np.arange(16)[::-1]
    assert (several @ several.T)[same_clip].mean() > (one @ one.T)[same_clip].mean()


def test_a_correction_brings_new_clips_nearer_and_its_penalty_keeps_it_short(parts):
    model, processor, captions, features, sentence_vectors = parts
    first, second = (
        Captions(captions.video_ids[half], captions.texts[half]) for half in (slice(None, 8), slice(8, None))
    )
    warm_start(model, processor, first, features, sentence_vectors)
    before = model.video_projection.weight.clone()

    def agreement():
        clips = [features[video_id] for video_id in second.video_ids]
        texts = model.encode_texts(second.texts, processor)
        return F.cosine_similarity(texts, model.encode_videos(clips, processor)).mean()

    was = agreement()
    steps = {}
    for penalty in (10.0, 0.1):
        with torch.no_grad():
            model.video_projection.weight.copy_(before)
        correct_video_projection(model, processor, second, features, sentence_vectors, penalty)
        steps[penalty] = (model.video_projection.weight - before).norm()
        assert agreement() > was
    assert steps[0.1] > steps[10.0]


def test_landmarks_follow_the_seed_and_need_enough_clips(parts):
    _, processor, captions, features, _ = parts
    model = tiny_model(video_kernel_size=12)
    chosen = []
    for seed in (0, 0, 1):
        set_landmarks(model, processor, captions.video_ids, features, seed)
        chosen.append(model.video_kernel.landmarks.clone())
    assert torch.equal(chosen[0], chosen[1]) and not torch.equal(chosen[0], chosen[2])
    with pytest.raises(PolyvidError, match="12 landmarks cannot be drawn from 5 clips"):
        set_landmarks(model, processor, captions.video_ids[:5], features)


def test_a_mean_start_leaves_the_projections_random():
    model, same = tiny_model(), tiny_model()
    mean_start(model)
    assert torch.equal(model.video_projection.weight, same.video_projection.weight)
    assert not model.video_pooler.layers[0].attention.q_proj.weight.any()


def test_a_model_of_images_is_refused(parts):
    with pytest.raises(PolyvidError, match="model.start=warm is for videos"):
        warm_start(tiny_model(freeze_below=3, image_feature_dim=6), *parts[1:])


def demo_recipe(name, folder, *more):
    """A recipe of the demo with a tiny backbone and random features."""
    tiny = {
        "output_dir": folder / name,
        "model.backbone": folder / "backbone",
        "model.output_layer": 3,
        "model.freeze_below": 3,
        "model.embed_dim": 16,
        "model.video_kernel_size": 40,
        "data.features": folder / "features",
        "data.frozen_states": folder / "states",
        "training.epochs": 1,
    }
    return load_recipe(CONFIGS / "demo" / f"{name}.yaml", [*(f"{key}={value}" for key, value in tiny.items()), *more])


@pytest.mark.slow
def test_the_recipes_of_the_demo_start_warm_train_and_save(tmp_path):
    tiny_model().text_model.save_pretrained(tmp_path / "backbone")
    tiny_processor().tokenizer.save_pretrained(tmp_path / "backbone")
    write_features(tmp_path / "features")
    trainer = build_trainer(demo_recipe("mp_pretrain_warm", tmp_path))
    start = trainer.model.video_projection.weight.clone()
    same = build_trainer(demo_recipe("mp_pretrain_warm", tmp_path))
    torch.testing.assert_close(same.model.video_projection.weight, start)
    trainer.fit()
    trainer = build_trainer(demo_recipe("mp_warm", tmp_path, f"model.init_from={tmp_path / 'mp_pretrain_warm'}"))
    assert torch.equal(trainer.model.video_kernel.landmarks, same.model.video_kernel.landmarks)
    trainer.fit()
    assert trainer.progress.best_score >= 0
    model = AutoModel.from_pretrained(tmp_path / "mp_warm")
    assert torch.equal(model.video_kernel.landmarks, same.model.video_kernel.landmarks)
    assert torch.equal(model.text_projection.weight, same.model.text_projection.weight)  # locked


def test_captions_that_are_all_the_same_are_refused(parts):
    model, processor, captions, features, sentence_vectors = parts
    same = Captions(captions.video_ids, ["the dog"] * 16)
    with pytest.raises(PolyvidError, match="All training captions have the same sentence vector"):
        warm_start(model, processor, same, features, sentence_vectors)


def test_streamed_clips_have_no_closed_form():
    with pytest.raises(RecipeError, match="need captions in memory"):
        load_recipe(CONFIGS / "mmp.yaml", ["model.start=warm"])
    with pytest.raises(RecipeError, match="must be random, mean, warm or zero_shot, not 'hot'"):
        load_recipe(CONFIGS / "vtt_en.yaml", ["model.start=hot"])
