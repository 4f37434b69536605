"""Rows to batches: padding, masks, and the noise of Eq. 3."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from polyvid.train.data.collate import MMPCollator
from tiny import VIDEO_FEATURE_DIM, WORDS, tiny_processor

CLEAN = ["input_ids", "attention_mask", "video_features", "video_mask", "video_index"]
NOISY = ["noisy_input_ids", "noisy_video_features"]


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def make_rows(n=64, pivots=False, seed=0):
    """`n` rows of 2-30 words and 2-30 seconds, two rows to a video."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        row = {
            "video_id": f"video{i // 2}",
            "language": ["en", "de"][i % 2],
            "text": " ".join(rng.choice(WORDS, rng.integers(2, 31))),
            "video_features": rng.uniform(1, 2, (rng.integers(2, 31), VIDEO_FEATURE_DIM)).astype(np.float16),
        }
        if pivots:
            row |= {"pivot_language": "zh", "pivot_text": " ".join(rng.choice(WORDS, rng.integers(2, 31)))}
        rows.append(row)
    return rows


def noised_tokens(batch, prefix=""):
    return batch[f"noisy_{prefix}input_ids"] != batch[f"{prefix}input_ids"]


def noised_seconds(batch):
    return (batch["noisy_video_features"] != batch["video_features"]).any(dim=-1)


def test_a_batch_holds_what_the_processor_makes_of_the_rows(processor):
    rows = make_rows()
    batch = MMPCollator(processor)(rows)
    assert list(batch) == [*CLEAN, *NOISY]
    assert all(len(tensor) == 64 for tensor in batch.values())
    for i, row in enumerate(rows):
        seconds = len(row["video_features"])
        assert batch["video_mask"][i].tolist() == [1] * seconds + [0] * (batch["video_mask"].shape[1] - seconds)
        np.testing.assert_array_equal(batch["video_features"][i, :seconds], row["video_features"].astype(np.float32))
        assert processor.tokenizer.decode(batch["input_ids"][i], skip_special_tokens=True) == row["text"]


def test_long_texts_and_videos_are_cut(processor):
    batch = MMPCollator(processor, max_text_length=9, max_video_length=7)(make_rows())
    assert batch["input_ids"].shape == batch["noisy_input_ids"].shape == (64, 9)
    assert batch["video_features"].shape == batch["noisy_video_features"].shape == (64, 7, VIDEO_FEATURE_DIM)


def test_five_percent_of_words_and_of_seconds_are_masked(processor):
    batch = MMPCollator(processor)(make_rows(2000))
    words = (batch["input_ids"] > processor.tokenizer.mask_token_id).sum()
    assert noised_tokens(batch).sum() / words == pytest.approx(0.05, abs=0.005)  # 4 standard deviations
    assert noised_seconds(batch).sum() / batch["video_mask"].sum() == pytest.approx(0.05, abs=0.005)


def test_noise_is_the_mask_token_and_the_zero_vector_and_spares_special_tokens(processor):
    tokenizer = processor.tokenizer
    rows = make_rows(pivots=True)
    rows[0]["text"] = "dog somethingunknown cat"  # an unknown word is already noise, and a special token
    batch = MMPCollator(processor, mask_ratio=0.9)(rows)
    for prefix in ("", "pivot_"):
        noised = noised_tokens(batch, prefix)
        assert noised.any()
        assert set(batch[f"noisy_{prefix}input_ids"][noised].tolist()) == {tokenizer.mask_token_id}
        assert set(batch[f"{prefix}input_ids"][noised].tolist()).isdisjoint(tokenizer.all_special_ids)
    assert noised_seconds(batch).any() and not batch["noisy_video_features"][noised_seconds(batch)].any()
    assert not (noised_seconds(batch) & ~batch["video_mask"].bool()).any()


def test_noise_leaves_something_of_every_view(processor):
    """A clip of one second was blanked in one of twenty; a vector of zeros has no direction to learn from."""
    rows = make_rows(100, pivots=True)
    for number, row in enumerate(rows):
        row["text"] = " ".join(row["text"].split()[: 1 + number % 3])
        row["video_features"] = row["video_features"][: 1 + number % 2]
    batch = MMPCollator(processor, mask_ratio=0.9)(rows)
    assert batch["noisy_video_features"].abs().amax(dim=(1, 2)).min() > 0
    for prefix in ("", "pivot_"):
        words = batch[f"{prefix}input_ids"] > processor.tokenizer.mask_token_id
        assert (words & ~noised_tokens(batch, prefix)).any(dim=1).all()
    assert noised_seconds(batch).any() and noised_tokens(batch).any()


def test_the_noise_of_a_row_depends_on_seed_epoch_and_row_not_on_its_batch(processor):
    rows = make_rows(pivots=True)
    collator = MMPCollator(processor, mask_ratio=0.3, seed=7)
    whole = collator(rows)
    for i in (5, 40):
        alone = MMPCollator(processor, mask_ratio=0.3, seed=7)([rows[i]])
        for key in ("noisy_input_ids", "noisy_pivot_input_ids", "noisy_video_features"):
            length = alone[key].shape[1]
            assert torch.equal(alone[key][0], whole[key][i, :length]), key

    def differs(batch):
        return (noised_tokens(batch) != noised_tokens(whole)).any(dim=1).float().mean() > 0.8

    assert differs(MMPCollator(processor, mask_ratio=0.3, seed=8)(rows))
    collator.set_epoch(1)
    assert differs(collator(rows))
    collator.set_epoch(0)
    assert torch.equal(collator(rows)["noisy_input_ids"], whole["noisy_input_ids"])
    same_length = [row | {"text": rows[0]["text"]} for row in rows]
    assert len(noised_tokens(collator(same_length)).unique(dim=0)) > 32  # other rows, other noise


def test_workers_follow_the_epoch(processor):
    rows = make_rows(16)
    collator = MMPCollator(processor, mask_ratio=0.3)
    loader = DataLoader(rows, batch_size=8, collate_fn=collator, num_workers=1)
    for epoch in range(2):
        collator.set_epoch(epoch)
        for i, batch in enumerate(loader):
            expected = collator(rows[8 * i : 8 * i + 8])
            assert all(torch.equal(batch[key], expected[key]) for key in expected)


def test_video_index_tells_which_rows_show_one_video_in_any_batch(processor):
    collator = MMPCollator(processor)
    index = collator(make_rows())["video_index"]
    assert index.dtype == torch.int64
    assert torch.equal(index[0::2], index[1::2]) and len(index.unique()) == 32
    assert torch.equal(collator(make_rows()[10:12])["video_index"], index[10:12])


def test_pivots_are_added_and_noise_can_be_left_out(processor):
    rows = make_rows(pivots=True)
    batch = MMPCollator(processor)(rows)
    assert {"pivot_input_ids", "pivot_attention_mask", "noisy_pivot_input_ids"} < set(batch)
    assert processor.tokenizer.decode(batch["pivot_input_ids"][3], skip_special_tokens=True) == rows[3]["pivot_text"]
    assert batch["noisy_pivot_input_ids"].shape == batch["pivot_attention_mask"].shape
    assert not any(key.startswith("noisy") for key in MMPCollator(processor, mask_ratio=0)(rows))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"text": "  "}, r"video6 \(en\): .*empty"),
        ({"pivot_text": ""}, r"video6 \(en\): .*empty"),
        ({"pivot_text": None}, "video6 has no pivot_text, but others do"),
        ({"language": None}, "video6 lacks language"),
        ({"video_features": np.zeros((0, 10))}, r"video6 \(en\): .*at least 1 second"),
        ({"video_features": np.zeros((3, 5))}, r"video6 \(en\): .*10 features"),
        ({"video_features": np.full((3, 10), np.nan)}, r"video6 \(en\): .*NaN"),
    ],
)
def test_a_bad_row_is_reported_with_its_video(processor, change, message):
    rows = make_rows(pivots=True)
    rows[12] |= change
    with pytest.raises(ValueError, match=message):
        MMPCollator(processor)(rows)


def test_senseless_options_are_refused(processor):
    with pytest.raises(ValueError, match="mask_ratio must be at least 0 and less than 1"):
        MMPCollator(processor, mask_ratio=5)
    without = tiny_processor()
    without.tokenizer.mask_token = None
    with pytest.raises(ValueError, match="no mask token"):
        MMPCollator(without)
