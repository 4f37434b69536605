"""Mean and deviation of training features, against numpy over all videos at once."""

import numpy as np
import pytest

from polyvid.dataset_scripts.building import shard_name, write_shard
from polyvid.dataset_scripts.features import FEATURES, features_to_row, rows_to_table
from polyvid.train.data.statistics import mean_and_std, streamed_features


def videos(count: int = 40) -> list[np.ndarray]:
    """Of 1 to 20 seconds, each around a mean of its own, far from zero."""
    generator = np.random.default_rng(0)
    return [
        (100 + generator.normal(size=5) + generator.normal(size=(1 + n % 20, 5))).astype(np.float16)
        for n in range(count)
    ]


def test_every_video_counts_once_however_long_it_is():
    arrays = [v.astype(np.float64) for v in videos()]
    weights = np.concatenate([np.full(len(v), 1 / len(v)) for v in arrays]) / len(arrays)
    seconds = np.concatenate(arrays)
    mean = weights @ seconds
    std = np.sqrt(weights @ (seconds - mean) ** 2)
    found = mean_and_std(videos())
    np.testing.assert_allclose(found[0], mean, rtol=1e-9)
    np.testing.assert_allclose(found[1], std, rtol=1e-7)
    long = [np.repeat(v, 1 + 50 * (n == 0), axis=0) for n, v in enumerate(videos())]  # the first lasts 51 times as long
    np.testing.assert_allclose(mean_and_std(long), found, rtol=1e-7)


def test_a_feature_that_never_changes_is_divided_by_a_small_number_and_no_video_is_refused():
    assert mean_and_std([np.ones((3, 2)), np.ones((4, 2))]) == ([1.0, 1.0], [1e-6, 1e-6])
    with pytest.raises(ValueError, match="No training video has features"):
        mean_and_std([])


def test_a_sample_of_a_stream_takes_as_many_videos_of_each_shard(tmp_path):
    schema = FEATURES.arrow_schema.remove_metadata()
    for shard in range(3):
        rows = [features_to_row(f"v{shard}-{n}", np.full((2, 4), shard)) for n in range(10)]
        write_shard([rows_to_table(rows)], tmp_path / shard_name("train", shard, 3), schema)
    files = [str(path) for path in sorted(tmp_path.glob("*.parquet"))]
    assert [int(v[0, 0]) for v in streamed_features(files, seed=0, count=6)] == [0, 0, 1, 1, 2, 2]
    assert len(list(streamed_features(files, seed=0, count=1000))) == 30
