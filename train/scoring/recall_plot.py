"""The plot of `polyvid evaluate`: recall by language. Needs the `report` extra."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from polyvid.dataset_scripts.building import atomic_path
from polyvid.dataset_scripts.schema import LANGUAGE_NAMES
from polyvid.train.scoring.evaluation import TEXT_TO_VIDEO
from polyvid.train.scoring.results import SHOWN, r1_intervals


def plot_recall(results: Mapping[str, Any], path: Path) -> None:
    """Plot text-to-video R@1, R@5 and R@10 by language, with the interval of R@1."""
    scores = results["scores"]["all"][TEXT_TO_VIDEO]
    languages = list(scores)
    figure = Figure(figsize=(2 + 0.9 * len(languages), 4))
    axes = figure.subplots()
    for number, (score, color) in enumerate(zip(SHOWN[:3], ("#1b7837", "#7fbf7b", "#d9f0d3"), strict=True)):
        heights = [scores[language][score] for language in languages]
        axes.bar(
            [index + 0.27 * (number - 1) for index in range(len(languages))], heights, 0.27, label=score, color=color
        )
    for index, (low, high) in enumerate(r1_intervals(results).values()):
        axes.vlines(index - 0.27, low, high, color="black", linewidth=1)
    axes.set_xticks(range(len(languages)), [LANGUAGE_NAMES[language] for language in languages])
    axes.set_ylabel("recall (%)")
    axes.set_title(f"{results['name']} on {results['protocol']['benchmark']}, text to video")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
