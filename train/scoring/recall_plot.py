"""The plot of `polyvid evaluate`: recall by language. Needs the `report` extra."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from polyvid.dataset_scripts.building import atomic_path
from polyvid.dataset_scripts.schema import language_name
from polyvid.train.scoring.evaluation import TEXT_TO_VIDEO
from polyvid.train.scoring.language_table import MOST_COLUMNS
from polyvid.train.scoring.results import SHOWN, r1_intervals


def plot_recall(results: Mapping[str, Any], path: Path) -> None:
    """Write `recall_figure` as PNG."""
    with atomic_path(path) as temporary:
        recall_figure(results).savefig(temporary, dpi=120, format="png")


def recall_figure(results: Mapping[str, Any]) -> Figure:
    """Text-to-video R@1, R@5 and R@10 by language, with the interval of R@1: vertical bars, horizontal for many."""
    scores = results["scores"]["all"][TEXT_TO_VIDEO]
    languages, many = list(scores), len(scores) > MOST_COLUMNS
    names = [language_name(language) for language in languages]
    figure = Figure(figsize=(7, 1.5 + 0.42 * len(languages)) if many else (2 + 0.9 * len(languages), 4))
    axes = figure.subplots()
    bars, line = (axes.barh, axes.hlines) if many else (axes.bar, axes.vlines)
    for number, (score, color) in enumerate(zip(SHOWN[:3], ("#1b7837", "#7fbf7b", "#d9f0d3"), strict=True)):
        positions = [index + 0.27 * (number - 1) for index in range(len(languages))]
        bars(positions, [scores[language][score] for language in languages], 0.27, label=score, color=color)
    for index, (low, high) in enumerate(r1_intervals(results).values()):
        line(index - 0.27, low, high, color="black", linewidth=1)
    if many:
        axes.set_yticks(range(len(languages)), names)
        axes.set_ylim(len(languages) - 0.5, -0.5)  # the first language on top, no empty space
        axes.set_xlabel("recall (%)")
    else:
        axes.set_xticks(range(len(languages)), names)
        axes.set_ylabel("recall (%)")
    axes.set_title(f"{results['name']} on {results['protocol']['benchmark']}, text to video")
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if many else {}
    axes.legend(frameon=False, **place)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure
