"""Mean and standard deviation of the training videos' features, for `data.normalize_features`.

They are saved with the model's processor, so that later use and further training normalise features in the same way.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from polyvid.dataset_scripts.features import features_from_row
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.data.clips import opened

STREAMED_VIDEOS = 2000  # sampled from a stream: the mean is then known to 2 % of the standard deviation


class FeatureStatistics:
    """Running mean and standard deviation of each feature. Each video has the same weight, whatever its length."""

    def __init__(self) -> None:
        self.videos = 0
        self._mean: npt.NDArray[np.float64] = np.zeros(())
        self._squares: npt.NDArray[np.float64] = np.zeros(())  # sum over videos of the mean squared distance to `_mean`

    def add(self, features: npt.ArrayLike) -> None:
        """Add a video, (seconds, feature_dim)."""
        seconds = np.asarray(features, dtype=np.float64)
        mean, variance = seconds.mean(0), seconds.var(0)
        self.videos += 1
        distance = mean - self._mean
        self._mean = self._mean + distance / self.videos
        self._squares = self._squares + variance + distance * (mean - self._mean)

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each feature over the videos so far.

        Raises:
            PolyvidError: if there are none.
        """
        if self.videos == 0:
            raise PolyvidError("No training video has features for the statistics; set data.normalize_features=false.")
        return self._mean.tolist(), np.maximum(np.sqrt(self._squares / self.videos), 1e-6).tolist()


def mean_and_std(videos: Iterable[npt.ArrayLike], power: float = 1.0) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each feature over videos (seconds, feature_dim) of equal weight.

    Args:
        videos: their features.
        power: the statistics are computed on sign(x)·|x|^power.

    Raises:
        PolyvidError: if there are no videos.
    """
    statistics = FeatureStatistics()
    for features in videos:
        seconds = np.asarray(features, dtype=np.float64)
        statistics.add(seconds if power == 1 else np.sign(seconds) * np.abs(seconds) ** power)
    return statistics.mean_and_std()


def streamed_features(files: Sequence[str], seed: int, count: int = STREAMED_VIDEOS) -> Iterator[np.ndarray]:
    """The features of about `count` random videos from joined shards, equally many from each shard.

    Args:
        files: shards from `polyvid join`; see `ClipDataset`.
        seed: for the draw.
        count: number of videos; all are used if there are fewer.
    """
    generator = np.random.default_rng(seed)
    share = -(-count // len(files))
    for file in files:
        with opened(file) as shard:
            left = share
            for group in generator.permutation(shard.num_row_groups):
                rows = shard.read_row_group(int(group), columns=["video_id", "num_seconds", "video_features"])
                for row in rows.slice(0, left).to_pylist():
                    if row["num_seconds"]:
                        yield features_from_row(row)
                left -= len(rows)
                if left <= 0:
                    break
