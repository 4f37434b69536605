"""Options beyond the paper: heads that begin as means, the kernel map of features, and a locked text tower."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch.nn import functional as F

from polyvid.modeling import MMPConfig, MMPFeatureExtractor, MMPModel
from polyvid.modeling.errors_mmp import PolyvidError
from tiny import BACKBONES, VIDEO_FEATURE_DIM, tiny_batch, tiny_model, tiny_processor

LANDMARKS = 7


def kernel_model(**fields) -> MMPModel:
    model = tiny_model(video_kernel_size=LANDMARKS, **fields)
    model.video_kernel.fit(torch.randn(LANDMARKS, VIDEO_FEATURE_DIM, generator=torch.Generator().manual_seed(0)))
    return model


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_head_that_starts_as_a_mean_pools_by_the_mean_over_real_positions(layers):
    model = tiny_model(pooler_num_layers=layers)
    model.text_pooler.start_as_mean()
    embeds = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    with torch.no_grad():
        pooled = model.pool_text(embeds, mask)
    for row, length in enumerate((5, 2, 1)):
        mean = embeds[row, :length].mean(0)
        centred = mean - mean.mean()
        assert F.cosine_similarity(pooled[row], centred, dim=0) > 0.98  # the first token itself weighs a thirty-second


def test_a_head_that_starts_as_a_mean_can_learn_everywhere():
    model = tiny_model().train()
    model.text_pooler.start_as_mean()
    batch = tiny_batch()
    for _ in range(2):  # what follows the zero matrices gets its first gradient once they have moved
        loss = model(**batch, return_loss=True).loss
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.text_pooler.parameters():
                parameter -= 1e-2 * parameter.grad
    still = [name for name, parameter in model.text_pooler.named_parameters() if not parameter.grad.abs().sum() > 0]
    # A bias of keys moves all scores of a query alike, which a softmax does not see.
    assert all(name.endswith("k_proj.bias") for name in still)


def test_inner_products_with_landmarks_are_the_kernel():
    kernel_map = kernel_model().video_kernel
    points = torch.randn(4, VIDEO_FEATURE_DIM, generator=torch.Generator().manual_seed(2))
    landmarks = kernel_map.landmarks
    distances = ((landmarks[:, None] - landmarks) ** 2).sum(-1)
    gamma = 2 / np.median(distances.numpy()[np.triu_indices(LANDMARKS, 1)])
    expected = torch.exp(-gamma * ((points[:, None] - landmarks) ** 2).sum(-1))
    torch.testing.assert_close(kernel_map(points) @ kernel_map(landmarks).T, expected, atol=1e-4, rtol=0)


def test_landmarks_that_do_not_fit_are_refused():
    kernel_map = kernel_model().video_kernel
    with pytest.raises(PolyvidError, match=r"landmarks of shape \(7, 10\), got \(6, 10\)"):
        kernel_map.fit(torch.randn(6, VIDEO_FEATURE_DIM))
    with pytest.raises(PolyvidError, match="are the same point"):
        kernel_map.fit(torch.ones(LANDMARKS, VIDEO_FEATURE_DIM))


def test_a_saved_model_carries_its_kernel_map_lock_and_power(tmp_path):
    model = kernel_model(freeze_below=3, lock_text=True)
    processor = tiny_processor(feature_power=0.5)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = MMPModel.from_pretrained(tmp_path)
    assert MMPFeatureExtractor.from_pretrained(tmp_path).feature_power == 0.5
    features = tiny_batch()["video_features"][:1]
    with torch.no_grad():
        expected = model.pool_video(model.embed_seconds(features))
        torch.testing.assert_close(loaded.pool_video(loaded.embed_seconds(features)), expected)
    trained = {name.split(".")[0] for name, parameter in loaded.named_parameters() if parameter.requires_grad}
    assert trained == {"video_projection", "video_pooler"}


@pytest.mark.slow
def test_the_kernel_map_travels_as_remote_code(tmp_path):
    model = kernel_model()
    model.save_pretrained(tmp_path / "model")
    features = tiny_batch()["video_features"][:1]
    torch.save(features, tmp_path / "features.pt")
    code = f"""
import sys, torch
from transformers import AutoModel
model = AutoModel.from_pretrained({str(tmp_path / "model")!r}, trust_remote_code=True)
assert "polyvid" not in sys.modules
features = torch.load({str(tmp_path / "features.pt")!r})
with torch.no_grad():
    torch.save(model.pool_video(model.embed_seconds(features)), {str(tmp_path / "found.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    with torch.no_grad():
        expected = model.pool_video(model.embed_seconds(features))
    torch.testing.assert_close(torch.load(tmp_path / "found.pt"), expected)


def test_a_locked_text_tower_makes_the_same_of_a_text_in_training():
    model = tiny_model(freeze_below=3, lock_text=True).train()
    batch = tiny_batch()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    first, second = (model.pool_text(model.embed_tokens(ids, mask), mask) for _ in range(2))
    assert torch.equal(first, second) and not first.requires_grad


@pytest.mark.parametrize("fields", [{"freeze_below": 2}, {"freeze_below": 3, "share_poolers": True}])
def test_a_lock_of_part_of_the_text_tower_is_refused(fields):
    with pytest.raises(StrictDataclassClassValidationError, match="lock_text=True freezes the whole text tower"):
        MMPConfig(text_config=BACKBONES["bert"], output_layer=3, embed_dim=16, lock_text=True, **fields)


def test_the_power_of_features_keeps_their_sign():
    extractor = MMPFeatureExtractor(2, feature_power=0.5, feature_mean=[1.0, 0.0], feature_std=[2.0, 1.0])
    found = extractor([np.array([[9.0, -4.0]])], return_tensors="np")["video_features"]
    np.testing.assert_allclose(found, [[[1.0, -2.0]]])
    with pytest.raises(PolyvidError, match="feature_power must be above 0"):
        MMPFeatureExtractor(2, feature_power=0.0)
