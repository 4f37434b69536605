"""The closed-form baselines of the demo, fitted on exactly the clips and captions that each model is trained on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.train.data.videos import VideoFeatures, load_videos
from polyvid.train.demo.models import recipes_of
from polyvid.train.loop.frozen_states import FrozenStates
from polyvid.train.loop.starting_model import build_model
from polyvid.train.scoring.baselines import LABELS as LABELS
from polyvid.train.scoring.baselines import PENALTIES, Baseline, Embed, captions_of_runs
from polyvid.train.scoring.sentences import SentenceVectors

Scores = dict[str, dict[str, float]]  # language → {"R@1": percent, ...}


def score_baselines(models: Sequence[str], folder: Path, overrides: Sequence[str] = ()) -> dict[str, dict[str, Scores]]:
    """Fit both baselines for each model, choose λ on its validation clips, and score them on the test clips.

    Args:
        models: keys of `polyvid.train.demo.models.STAGES`.
        folder: where the models are, or would be.
        overrides: of all recipes, such as `data.config=split_1`.

    Returns:
        baseline → model → language → scores, as `Ranks.scores` gives them.
    """
    last = recipes_of(models[0], folder, overrides)[-1].data
    test = captions_of_runs([(replace(last, languages=list(LANGUAGES)), load_videos(last, "test", LANGUAGES))])
    assert last.features is not None
    features = VideoFeatures(last.features)
    scores: dict[str, dict[str, Scores]] = {kind: {} for kind in PENALTIES}
    with sentence_vectors(models[0], folder, overrides) as embed:
        for kind, name, baseline in fit_baselines(models, folder, features, embed, overrides):
            scores[kind][name] = baseline.scores(test)
    return scores


@contextmanager
def sentence_vectors(model: str, folder: Path, overrides: Sequence[str] = ()) -> Iterator[SentenceVectors]:
    """Sentence vectors of the demo's backbone; what its frozen layers computed is kept at the end.

    Arguments as for `score_baselines`.
    """
    recipe = recipes_of(model, folder, overrides)[-1]
    backbone, processor = build_model(replace(recipe.model, init_from=None))
    processor.max_text_length = recipe.data.max_text_length
    frozen = recipe.data.frozen_states
    states = FrozenStates(frozen, backbone) if frozen is not None else None
    yield SentenceVectors(backbone, processor, states)
    if states is not None:
        states.save()


def fit_baselines(
    models: Sequence[str],
    folder: Path,
    features: Mapping[str, np.ndarray],
    embed: Embed,
    overrides: Sequence[str] = (),
) -> Iterator[tuple[str, str, Baseline]]:
    """Both baselines for each model, with the λ that is best on its validation clips, as (baseline, model, fitted).

    Args:
        features: video id → array (seconds, dim).
        embed: texts → sentence vectors (texts, dim).
        Others as for `score_baselines`.
    """
    everything = recipes_of(models[0], folder, overrides)[-1].data

    @cache
    def clips(split: str) -> list[dict[str, Any]]:
        return load_videos(replace(everything, caption_kinds=None), split, LANGUAGES)

    for name in models:
        recipes = recipes_of(name, folder, overrides)
        last = recipes[-1].data
        training = captions_of_runs((recipe.data, clips(recipe.data.train_split)) for recipe in recipes)
        choosing = replace(last, languages=last.validation_languages)
        validation = captions_of_runs([(choosing, clips(last.validation_split))])
        for kind in PENALTIES:
            yield kind, name, Baseline(kind, training, validation, features, embed)
