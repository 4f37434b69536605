"""The closed-form baselines beside a model: fitted on exactly the videos and captions that its recipe trains on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from polyvid.modeling import MMPModel, MMPProcessor
from polyvid.train.data.videos import load_videos
from polyvid.train.recipe import DataRecipe
from polyvid.train.scoring.baselines import LABELS, PENALTIES, Baseline, captions_of_runs
from polyvid.train.scoring.language_table import language_table
from polyvid.train.scoring.sentences import SentenceVectors

Scores = dict[str, dict[str, float]]  # language → {"R@1": percent, ...}


def score_closed_forms(
    model: MMPModel,
    processor: MMPProcessor,
    trained_on: DataRecipe,
    features: Mapping[str, Any],
    videos: Sequence[Mapping[str, Any]],
    languages: Sequence[str],
) -> dict[str, Scores]:
    """Fit both baselines on what a recipe trains on, choose λ on its validation videos, and search `videos`.

    The validation captions are the training split's own where the recipe has no validation split.

    Args:
        model: its text backbone makes the sentence vectors. Layers that training changed count as they are now.
        trained_on: names the training and validation videos and their languages.
        features: of all videos.
        videos, languages: to search, as for `rank_benchmark`.

    Returns:
        baseline → language → text-to-video scores, over the videos with features.

    Raises:
        ImportError: without scikit-learn (the extra `report`).
        PolyvidError: if a split is missing, or has no video with features.
    """
    embed = SentenceVectors(model, processor)
    choosing = replace(trained_on, languages=trained_on.validation_languages)
    split = trained_on.validation_split or trained_on.train_split
    training = captions_of_runs([(trained_on, load_videos(trained_on, trained_on.train_split, trained_on.languages))])
    validation = captions_of_runs([(choosing, load_videos(trained_on, split, choosing.languages))])
    test = captions_of_runs([(replace(trained_on, languages=list(languages)), videos)])
    return {kind: Baseline(kind, training, validation, features, embed).scores(test) for kind in PENALTIES}


def closed_form_lines(model: Mapping[str, Mapping[str, float]], found: Mapping[str, Scores]) -> list[str]:
    """Lines of a table: text-to-video R@1 and R@5 of the model and the baselines, by language."""
    lines: list[str] = []
    for score in ("R@1", "R@5"):
        rows = []
        for label, scores in (("this model", model), *((LABELS[kind], scores) for kind, scores in found.items())):
            values = [scores[language][score] for language in model]
            rows.append([label, *(f"{value:.1f}" for value in [*values, sum(values) / len(values)])])
        lines += ["", *language_table(f"text to video, {score}", list(model), rows)]
    return [*lines, "", "The regressions go from a video's mean features to the mean sentence vector of its captions."]
