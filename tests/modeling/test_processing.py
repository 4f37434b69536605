"""MMPProcessor: what users have (strings, numpy, torch, lists) to a padded, masked batch."""

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoProcessor

from polyvid.modeling import MMPFeatureExtractor, MMPModel, MMPProcessor
from tiny import VIDEO_FEATURE_DIM, tiny_model, tiny_processor


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def features(seconds, seed=0):
    return np.random.default_rng(seed).standard_normal((seconds, VIDEO_FEATURE_DIM)).astype(np.float32)


def test_a_batch_of_texts_and_videos_fits_the_model(processor):
    batch = processor(text=["a dog runs", "der hund"], videos=[features(4), features(7)], return_tensors="pt")
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "input_ids": (2, 5),
        "attention_mask": (2, 5),
        "video_features": (2, 7, VIDEO_FEATURE_DIM),
        "video_mask": (2, 7),
    }
    assert batch["attention_mask"].sum(1).tolist() == [5, 4]  # with <s> and </s>
    assert batch["video_mask"].sum(1).tolist() == [4, 7]
    np.testing.assert_array_equal(batch["video_features"][0, :4], features(4))
    assert not batch["video_features"][0, 4:].any()
    assert set(batch) == set(processor.model_input_names)
    assert tiny_model()(**batch).logits_per_text.shape == (2, 2)


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor, np.ndarray.tolist, lambda a: a.astype(np.float64)])
@pytest.mark.parametrize("single", [True, False])
def test_numpy_torch_and_lists_are_all_the_same(processor, convert, single):
    video = convert(features(3))
    batch = processor(videos=video if single else [video, video], return_tensors="np")
    assert batch["video_features"].dtype == np.float32
    np.testing.assert_array_equal(batch["video_features"][-1], features(3))
    assert batch["video_mask"].tolist() == [[1, 1, 1]] * (1 if single else 2)


def test_half_precision_features_and_whole_batches_are_taken(processor):
    half = torch.tensor(np.stack([features(3), features(3, 1)])).to(torch.bfloat16)
    batch = processor(videos=half, return_tensors="pt")
    assert torch.equal(batch["video_features"], half.float())


def test_long_texts_and_videos_are_cut(processor):
    """192 tokens and 128 seconds in pre-training, 96 and 36 in fine-tuning (App. C)."""
    text, video = "hund " * 300, features(200)
    batch = processor(text=text, videos=video, return_tensors="pt")
    assert (batch["input_ids"].shape[1], batch["video_features"].shape[1]) == (192, 128)
    assert batch["input_ids"][0, [0, -1]].tolist() == [0, 2]  # <s> and </s> are kept
    batch = processor(text=text, videos=video, max_text_length=96, max_video_length=36, return_tensors="pt")
    assert (batch["input_ids"].shape[1], batch["video_features"].shape[1]) == (96, 36)
    np.testing.assert_array_equal(batch["video_features"][0], video[:36])


def test_padding_to_the_maximum_and_not_at_all(processor):
    batch = processor(text=["a dog"], videos=[features(3)], padding="max_length", return_tensors="pt")
    assert (batch["input_ids"].shape[1], batch["video_features"].shape[1]) == (192, 128)
    batch = processor(text=["a dog", "dog"], videos=[features(3), features(1)], padding=False)
    assert [len(ids) for ids in batch["input_ids"]] == [4, 3]
    assert [video.shape for video in batch["video_features"]] == [(3, VIDEO_FEATURE_DIM), (1, VIDEO_FEATURE_DIM)]


def test_features_are_normalised_before_padding():
    mean, std = np.arange(VIDEO_FEATURE_DIM), np.arange(1, VIDEO_FEATURE_DIM + 1)
    processor = tiny_processor(feature_mean=mean, feature_std=std)
    batch = processor(videos=[features(2), features(4)], return_tensors="np")
    np.testing.assert_allclose(batch["video_features"][0, :2], (features(2) - mean) / std, rtol=1e-6)
    assert not batch["video_features"][0, 2:].any()


def test_it_comes_back_from_a_folder_with_everything_set(tmp_path):
    saved = tiny_processor(max_length=36, feature_mean=[0.5] * 10, feature_std=[2.0] * 10)
    saved.max_text_length = 96
    tiny_model().save_pretrained(tmp_path)
    saved.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, MMPProcessor)
    assert (loaded.max_text_length, loaded.feature_extractor.max_length) == (96, 36)
    arguments = dict(text=["der hund läuft", "a cat"], videos=[features(50), features(2)], return_tensors="pt")
    for name, tensor in saved(**arguments).items():
        assert torch.equal(tensor, loaded(**arguments)[name]), name
    assert isinstance(AutoFeatureExtractor.from_pretrained(tmp_path), MMPFeatureExtractor)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(), "Nothing to process"),
        (dict(text=["a dog", ""]), "Text 1 must be a non-empty string, got ''"),
        (dict(text=["a dog", " \n"]), "Text 1 must be a non-empty string"),
        (dict(text=["a dog", None]), "Text 1 must be a non-empty string, got None"),
        (dict(videos=[]), "No videos"),
        (dict(videos=[features(2), features(0)]), r"Video 1 must be an array of at least 1 second x 10 .* \(0, 10\)"),
        (dict(videos=[features(2)[:, :7]]), r"Video 0 must be .* x 10 features, but its shape is \(2, 7\)"),
        (
            dict(videos=[features(2), features(3) * np.nan]),
            r"Video 1 \(3, 10\) holds NaN or infinity, first in second 0",
        ),
        (dict(videos=[np.full((3, 10), np.inf)], video_names=["x7Gk"]), "Video 'x7Gk' .* NaN or infinity"),
    ],
)
def test_bad_input_is_refused_by_name(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(feature_mean=[0.0] * 9, feature_std=[1.0] * 9), "feature_mean has 9 values, but feature_size is 10"),
        (dict(feature_mean=[0.0] * 10), "feature_mean and feature_std go together"),
        (dict(feature_mean=[0.0] * 10, feature_std=[0.0] * 10), "feature_std must be positive"),
        (dict(max_length=0), "max_length must be at least 1 second"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_processor(**arguments)


# ---- many at once ----

TEXTS = ["a dog", "der hund läuft in the park", "狗 跑", "a cat sleeps", "woman", "the man runs in the park a dog"]


@pytest.mark.parametrize("budget", [1, 12, None])
def test_many_texts_are_embedded_as_one_by_one_and_in_order(processor, budget):
    model = tiny_model()
    embeds = model.encode_texts(TEXTS, processor, tokens_per_batch=budget)
    assert embeds.shape == (6, 16) and embeds.dtype == torch.float32
    for text, embed in zip(TEXTS, embeds, strict=True):
        alone = model.get_text_features(**processor(text=text, return_tensors="pt")).pooler_output[0]
        torch.testing.assert_close(embed, alone, atol=1e-5, rtol=0)


def test_many_videos_are_embedded_as_one_by_one_and_in_order(processor):
    model = tiny_model()
    videos = [features(seconds, seed) for seed, seconds in enumerate([3, 1, 200, 8, 2])]
    embeds = model.encode_videos(videos, processor, seconds_per_batch=20, max_video_length=36)
    for video, embed in zip(videos, embeds, strict=True):
        alone = model.get_video_features(torch.tensor(video[None, :36])).pooler_output[0]
        torch.testing.assert_close(embed, alone, atol=1e-5, rtol=0)


def test_batches_hold_no_more_than_the_budget_and_little_padding(processor, monkeypatch):
    model, shapes, original = tiny_model(), [], MMPModel.get_video_features

    def record(self, video_features, video_mask):
        shapes.append(tuple(video_features.shape[:2]))
        return original(self, video_features, video_mask)

    monkeypatch.setattr(MMPModel, "get_video_features", record)
    model.encode_videos([features(2)] * 10, processor, seconds_per_batch=18)
    assert shapes == [(9, 2), (1, 2)]
    shapes.clear()
    model.encode_videos([features(seconds) for seconds in (1, 9, 1, 8, 3, 1)], processor, seconds_per_batch=64)
    assert shapes == [(1, 9), (1, 8), (4, 3)]  # where a sixteenth of the budget is reached, nothing is padded


def test_encoding_leaves_the_model_in_its_mode_and_needs_no_graph(processor):
    model = tiny_model().train()
    first, second = (model.encode_texts(TEXTS, processor) for _ in range(2))
    assert torch.equal(first, second)  # no dropout
    assert model.training and not first.requires_grad and not first.is_inference()
    assert model.encode_texts([], processor).shape == (0, 16)
    with pytest.raises(ValueError, match="Text 1"):
        model.encode_texts(["a dog", ""], processor)
    with pytest.raises(ValueError, match="Video 'v2'"):
        model.encode_videos([features(2), features(0)], processor, names=["v1", "v2"])
    assert model.training
