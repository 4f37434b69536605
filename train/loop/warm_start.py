"""Starts that are not random, options beyond §3.1: the layers are the paper's, their first weights are computed.

At random weights the projections and pooling heads destroy the sentence space of a pre-trained encoder before learning
begins, and a thousand clips cannot repair it. `mean_start` lets both pooling heads begin as means; `warm_start` also
sets the projections, by principal components for text and by ridge regression for video, so that step 0 searches like
a closed form. On data as large as the paper's a random start has enough to learn from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from polyvid.modeling import MMPModel, MMPProcessor
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.scoring.sentences import SentenceVectors

SMALLEST_EIGENVALUE = 1e-6  # of the sentence vectors' covariance, relative to the largest
WITHIN_WEIGHT = 0.8  # of the covariance within the captions of a clip, in what is whitened


@dataclass(frozen=True)
class Captions:
    """Training captions: row i of each list is one caption."""

    video_ids: list[str]
    texts: list[str]

    @classmethod
    def of(cls, videos: Sequence[Mapping[str, Any]], features: Mapping[str, np.ndarray] | None = None) -> "Captions":
        """From rows of `polyvid.dataset_scripts.schema.CAPTIONS`, of the clips that have features if these are given.

        Raises:
            PolyvidError: if no clip has both features and captions.
        """
        found = [
            (video["video_id"], caption["text"])
            for video in videos
            for caption in video["captions"]
            if (features is None or video["video_id"] in features) and caption["text"].strip()
        ]
        if not found:
            raise PolyvidError(f"None of {len(videos)} videos has both features and captions: nothing to start from.")
        video_ids, texts = zip(*found, strict=True)
        return cls(list(video_ids), list(texts))


def mean_start(model: MMPModel) -> None:
    """Let the pooling heads begin as means over tokens and over seconds."""
    model.text_pooler.start_as_mean()
    if not model.config.share_poolers:
        model.video_pooler.start_as_mean()


def warm_start(
    model: MMPModel,
    processor: MMPProcessor,
    captions: Captions,
    features: Mapping[str, np.ndarray],
    sentence_vectors: SentenceVectors,
    penalty: float = 1.0,
) -> None:
    """Set heads and projections of a new model to closed-form solutions for the training captions.

    - Heads: means, see `mean_start`.
    - Text: sentence vectors (means over tokens) are centred, half-whitened and projected on their principal components.
      A backbone as wide as `embed_dim` has no projection of texts (§3.1) and is used as it is.
    - Video: ridge regression, see `correct_video_projection`. A kernel map must have its landmarks (`set_landmarks`).

    The projections give texts and clips embeddings whose entries sum to 0, so that the heads' layer norms only scale
    them and the model ranks as the closed form does.

    Args:
        model: changed in place.
        processor: normalises features; where it does not, the regression sees them as they are.
        captions: that the recipe trains on.
        features: video id → array (seconds, video_feature_dim).
        sentence_vectors: of the model's own backbone.
        penalty: λ of the ridge regression, relative to the mean squared length of its inputs.

    Raises:
        PolyvidError: for a model of images, or if the backbone tells no two captions apart.
    """
    if model.config.image_feature_dim is not None:
        raise PolyvidError("model.start=warm is for videos: with model.image_feature_dim, choose random or mean.")
    mean_start(model)
    set_text_projection(model, captions, sentence_vectors)
    nn.init.zeros_(model.video_projection.weight)
    nn.init.zeros_(model.video_projection.bias)
    correct_video_projection(model, processor, captions, features, sentence_vectors, penalty)


def set_text_projection(model: MMPModel, captions: Captions, sentence_vectors: SentenceVectors) -> None:
    """The part of `warm_start` that needs no video: the projection of texts, if the model has one."""
    if isinstance(model.text_projection, nn.Linear):
        vectors = sentence_vectors(captions.texts).astype(np.float64)
        weight, bias = _text_projection(vectors, captions.video_ids, model.config.embed_dim)
        with torch.no_grad():
            model.text_projection.weight.copy_(torch.from_numpy(weight))
            model.text_projection.bias.copy_(torch.from_numpy(bias))


def correct_video_projection(
    model: MMPModel,
    processor: MMPProcessor,
    captions: Captions,
    features: Mapping[str, np.ndarray],
    sentence_vectors: SentenceVectors,
    penalty: float = 1.0,
) -> None:
    """Add to the video projection the ridge regression from clips to what it misses of their captions' embeddings.

    Inputs are a clip's mean features (after the kernel map, where the model has one). The target is the mean of the
    unit embeddings that the text tower gives the clip's captions. From a projection of zero this is the whole
    regression; from a pre-trained one it is a step towards new clips, and the penalty keeps it short. Arguments as for
    `warm_start`. Where the video head is far from a mean, what is missed is only estimated.
    """
    row_of = {video_id: row for row, video_id in enumerate(dict.fromkeys(captions.video_ids))}
    targets = np.zeros((len(row_of), model.config.embed_dim))
    np.add.at(
        targets,
        [row_of[video_id] for video_id in captions.video_ids],
        _unit(sentence_vectors.embeddings(captions.texts).astype(np.float64)),
    )
    inputs = mean_inputs(model, processor, [features[video_id] for video_id in row_of])
    linear = model.video_projection
    weight, bias = (tensor.detach().double().cpu().numpy() for tensor in (linear.weight, linear.bias))
    length = model.config.embed_dim**0.5  # that a layer norm gives an embedding
    missing = length * _unit(targets) - (inputs @ weight.T + bias)
    gram = inputs.T @ inputs
    gram[np.diag_indices_from(gram)] += penalty * np.trace(gram) / len(inputs)
    correction = np.linalg.solve(gram, inputs.T @ missing).T
    with torch.no_grad():
        linear.weight += torch.from_numpy(correction).to(linear.weight)


def set_landmarks(
    model: MMPModel,
    processor: MMPProcessor,
    video_ids: Sequence[str],
    features: Mapping[str, np.ndarray],
    seed: int = 0,
) -> None:
    """Give the kernel map its landmarks: mean features of some of these clips, drawn by `seed`.

    Raises:
        PolyvidError: if there are fewer clips than landmarks.
        ValueError: if the model has no kernel map.
    """
    size = model.config.video_kernel_size
    if size is None:
        raise ValueError("This model has no kernel map: its video_kernel_size is not set.")
    if len(video_ids) < size:
        raise PolyvidError(
            f"model.video_kernel_size={size} landmarks cannot be drawn from {len(video_ids)} clips: lower it, or name "
            "more splits in data.landmark_splits."
        )
    chosen = sorted(np.random.default_rng(seed).permutation(len(video_ids))[:size].tolist())
    means = [_processed(processor, features[video_ids[row]]).mean(0) for row in chosen]
    model.video_kernel.fit(torch.from_numpy(np.stack(means)).to(model.video_kernel.landmarks))


def mean_inputs(model: MMPModel, processor: MMPProcessor, videos: Sequence[np.ndarray]) -> np.ndarray:
    """What the video projection sees of each clip, averaged over its seconds: (clips, inputs) float64."""
    rows = []
    for video in videos:
        inputs = torch.from_numpy(_processed(processor, video)).to(model.video_projection.weight)
        if model.config.video_kernel_size is not None:
            inputs = model.video_kernel(inputs)
        rows.append(inputs.double().mean(0).cpu().numpy())
    return np.stack(rows)


def _processed(processor: MMPProcessor, video: np.ndarray) -> np.ndarray:
    """A clip's features as the model gets them: (seconds, video_feature_dim) float32, cut and normalised."""
    return np.asarray(processor.feature_extractor([video], padding=False)["video_features"][0])


def _text_projection(vectors: np.ndarray, video_ids: Sequence[str], embed_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight (embed_dim, hidden_size) and bias of the map described in `warm_start`.

    What differs between captions of one clip, translations above all, does not help to find it. Where clips have
    several captions, these differences make up most of the covariance that is half-whitened: their directions are
    scaled down.
    """
    center = vectors.mean(0)
    centred = vectors - center
    if not np.square(centred).sum() > 1e-9 * len(vectors) * np.square(center).sum():
        raise PolyvidError("All training captions have the same sentence vector: there is nothing to start from.")
    covariance = _scatter(centred)
    number_of = {video_id: number for number, video_id in enumerate(dict.fromkeys(video_ids))}
    of_row = np.array([number_of[video_id] for video_id in video_ids])
    counts = np.bincount(of_row)
    sums = np.zeros((len(counts), vectors.shape[1]))
    np.add.at(sums, of_row, centred)
    differences = (centred - (sums / counts[:, None])[of_row])[counts[of_row] > 1]
    if differences.any():
        covariance = (1 - WITHIN_WEIGHT) * covariance + WITHIN_WEIGHT * _scatter(differences)
    eigenvalues, directions = np.linalg.eigh(covariance)
    eigenvalues = np.maximum(eigenvalues, SMALLEST_EIGENVALUE * eigenvalues[-1])
    whitening = (directions * eigenvalues**-0.25) @ directions.T
    components = np.linalg.svd(centred @ whitening, full_matrices=False)[2][: embed_dim - 1]
    # An orthonormal basis of the vectors whose entries sum to 0: one column for each component.
    basis = np.linalg.qr(np.eye(embed_dim) - 1 / embed_dim)[0][:, : len(components)]
    weight = basis @ components @ whitening
    weight *= np.sqrt(embed_dim / ((centred @ weight.T) ** 2).sum(1).mean())
    return weight, -weight @ center


def _scatter(rows: np.ndarray) -> np.ndarray:
    """Covariance of centred rows, scaled to a trace of 1."""
    return rows.T @ rows / np.square(rows).sum()


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
