"""Closed-form baselines: what a trained model has to beat with the same features, texts and clips.

`ridge` and `kernel_ridge` regress from a clip to the sentence vector of its captions. Nothing is learned step by step,
so a baseline has no seed and takes seconds. Both see exactly what a model sees: the cached features of the training
clips, the frozen text backbone, and the captions of the run's languages and kinds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.recipe import DataRecipe
from polyvid.train.scoring.ranking import ranks_of_targets, retrieval_scores

Kind = Literal["ridge", "kernel_ridge"]
Embed = Callable[[Sequence[str]], np.ndarray]
Videos = Sequence[Mapping[str, Any]]  # rows of `polyvid.dataset_scripts.schema.CAPTIONS`

PENALTIES: dict[Kind, tuple[float, ...]] = {
    "ridge": (30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5),
    "kernel_ridge": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
}
LABELS = {"ridge": "ridge regression", "kernel_ridge": "RBF kernel ridge regression"}
SMALLEST_EIGENVALUE = 1e-6  # of the sentence vectors' covariance, relative to the largest


class SentenceSpace:
    """Makes sentence vectors comparable: centred per language, half-whitened, normalised.

    Sentence encoders put all sentences into a narrow cone (cosines of 0.83 between unrelated names in
    multilingual-e5), with one cone for each language. Centring removes the cones. Half-whitening (eigenvalues of the
    covariance to the power -1/4) keeps a few strong directions from deciding every comparison.

    Args:
        vectors: (sentences, dim), of the training captions.
        languages: one for each sentence. A language that is missing here is later centred by the mean of the known
            centres.
    """

    def __init__(self, vectors: np.ndarray, languages: Sequence[str]):
        vectors, of_row = np.asarray(vectors, dtype=np.float64), np.asarray(languages)
        self.centers = {str(language): vectors[of_row == language].mean(0) for language in np.unique(of_row)}
        self.other_center = np.mean(list(self.centers.values()), axis=0)
        centred = vectors - np.stack([self.centers[str(language)] for language in of_row])
        eigenvalues, directions = np.linalg.eigh(centred.T @ centred / len(centred))
        eigenvalues = np.maximum(eigenvalues, SMALLEST_EIGENVALUE * eigenvalues[-1])
        self.whitening = (directions * eigenvalues**-0.25) @ directions.T

    def __call__(self, vectors: np.ndarray, language: str) -> np.ndarray:
        """Unit vectors (sentences, dim) of sentences in one language."""
        return normalized((vectors - self.centers.get(language, self.other_center)) @ self.whitening)


class Baseline:
    """Regression from a clip's features to the mean sentence vector of its captions.

    Input is the square root of the features' mean over seconds, standardised on the training clips. The kernel is
    exp(-γ‖a - b‖²) with γ = 2 / the median squared distance of two training clips. The penalty λ is the one with the
    highest mean reciprocal rank on the validation captions, which are English in the zero-shot setting.

    Args:
        kind: linear ridge regression or RBF kernel ridge regression, both from scikit-learn.
        training: clips and the captions to learn from.
        validation: clips and the captions that choose λ.
        features: video id → array (seconds, dim).
        embed: texts → sentence vectors (texts, dim).

    Raises:
        ImportError: without scikit-learn (the extra `report`).
        PolyvidError: for a split without a caption whose clip has features.
    """

    def __init__(
        self, kind: Kind, training: Videos, validation: Videos, features: Mapping[str, np.ndarray], embed: Embed
    ):
        from sklearn.kernel_ridge import KernelRidge
        from sklearn.linear_model import Ridge
        from sklearn.preprocessing import StandardScaler

        self.features, self.embed = features, embed
        captions = _captions(training, features)
        vectors = embed([text for _, _, text in captions])
        languages = np.array([language for _, language, _ in captions])
        self.space = SentenceSpace(vectors, languages.tolist())
        row_of = {video_id: row for row, video_id in enumerate(dict.fromkeys(caption[0] for caption in captions))}
        rows = np.array([row_of[video_id] for video_id, _, _ in captions])
        sums = np.zeros((len(row_of), vectors.shape[1]))
        for language in self.space.centers:
            own = languages == language
            np.add.at(sums, rows[own], self.space(vectors[own], language))
        targets = normalized(sums)

        inputs = root_of_means(features, list(row_of))
        self.scaler = StandardScaler().fit(inputs)
        inputs = self.scaler.transform(inputs)
        self.penalty, best = 0.0, -1.0
        gamma = 2 / median_squared_distance(inputs)
        for penalty in PENALTIES[kind]:
            linear = Ridge(alpha=penalty)
            regression = linear if kind == "ridge" else KernelRidge(alpha=penalty, kernel="rbf", gamma=gamma)
            regression.fit(inputs, targets)
            found = np.concatenate([ranks for ranks, _ in self._ranks(regression, validation).values()])
            if (reciprocal := float((1 / found).mean())) > best:
                best, self.penalty, self.regression = reciprocal, penalty, regression

    def scores(self, videos: Videos) -> dict[str, dict[str, float]]:
        """Text-to-video scores as `Ranks.scores` gives them, by language; every caption searches all `videos`."""
        ranks = self.ranks(videos)
        return {language: {"queries": len(found)} | retrieval_scores(found) for language, (found, _) in ranks.items()}

    def ranks(self, videos: Videos) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Language → the rank at which each caption finds its clip among all `videos`, and the ids of these clips."""
        return self._ranks(self.regression, videos)

    def _ranks(self, regression: Any, videos: Videos) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        captions = _captions(videos, self.features)
        row_of = {video_id: row for row, video_id in enumerate(dict.fromkeys(caption[0] for caption in captions))}
        inputs = self.scaler.transform(root_of_means(self.features, list(row_of)))
        candidates = torch.from_numpy(regression.predict(inputs))
        ranks = {}
        for language in dict.fromkeys(caption[1] for caption in captions):
            own = [(row_of[video_id], text) for video_id, of_text, text in captions if of_text == language]
            queries = torch.from_numpy(self.space(self.embed([text for _, text in own]), language))
            rows = torch.tensor([row for row, _ in own])
            found = ranks_of_targets(queries, candidates, rows)
            ranks[language] = (found, np.array(list(row_of))[rows.numpy()])
        return ranks


def captions_of_runs(runs: Iterable[tuple[DataRecipe, Videos]]) -> list[dict[str, Any]]:
    """What a model saw in all stages of its training: the clips of every run with the captions its recipe uses."""
    return [
        {
            **video,
            "captions": [
                caption
                for caption in video["captions"]
                if caption["language"] in data.languages
                and (data.caption_kinds is None or caption["caption_id"] in data.caption_kinds)
            ],
        }
        for data, videos in runs
        for video in videos
    ]


def root_of_means(features: Mapping[str, np.ndarray], video_ids: Sequence[str]) -> np.ndarray:
    """Square root of the features' mean over seconds, with its sign: (videos, dim) float64.

    Averages of rectified values have long tails; the root shortens them. `data.feature_power=0.5` does the same.
    """
    means = np.stack([np.asarray(features[video_id], dtype=np.float64).mean(0) for video_id in video_ids])
    return np.sign(means) * np.sqrt(np.abs(means))


def median_squared_distance(points: np.ndarray) -> float:
    """Of all pairs of different points (points, dim)."""
    squares = (points**2).sum(1)
    distances = squares[:, None] + squares[None] - 2 * points @ points.T
    return float(np.median(distances[np.triu_indices(len(points), 1)]))


def normalized(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _captions(videos: Videos, features: Mapping[str, np.ndarray]) -> list[tuple[str, str, str]]:
    """(video id, language, text) of every caption whose video has features."""
    found = [
        (video["video_id"], caption["language"], caption["text"])
        for video in videos
        for caption in video["captions"]
        if video["video_id"] in features and caption["text"].strip()
    ]
    if not found:
        raise PolyvidError(f"None of {len(videos)} videos has both features and captions.")
    return found
