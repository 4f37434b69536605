"""The closed-form baselines of the demo, fitted on exactly the clips and captions that each model is trained on."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.train.data.videos import VideoFeatures, load_videos
from polyvid.train.demo.models import recipes_of
from polyvid.train.loop.frozen_states import FrozenStates
from polyvid.train.loop.starting_model import build_model
from polyvid.train.scoring.baselines import LABELS as LABELS
from polyvid.train.scoring.baselines import PENALTIES, Baseline, captions_of_runs
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
    everything = recipes_of(models[0], folder, overrides)[-1]
    backbone, processor = build_model(replace(everything.model, init_from=None))
    processor.max_text_length = everything.data.max_text_length
    frozen = everything.data.frozen_states
    states = FrozenStates(frozen, backbone) if frozen is not None else None
    assert everything.data.features is not None
    embed, features = SentenceVectors(backbone, processor, states), VideoFeatures(everything.data.features)

    @cache
    def clips(split: str) -> list[dict[str, Any]]:
        return load_videos(replace(everything.data, caption_kinds=None), split, LANGUAGES)

    scores: dict[str, dict[str, Scores]] = {kind: {} for kind in PENALTIES}
    for name in models:
        recipes = recipes_of(name, folder, overrides)
        last = recipes[-1].data
        training = captions_of_runs((recipe.data, clips(recipe.data.train_split)) for recipe in recipes)
        choosing = replace(last, languages=last.validation_languages)
        validation = captions_of_runs([(choosing, clips(last.validation_split))])
        test = captions_of_runs([(replace(last, languages=list(LANGUAGES)), clips("test"))])
        for kind in PENALTIES:
            scores[kind][name] = Baseline(kind, training, validation, features, embed).scores(test)
    if states is not None:
        states.save()
    return scores
