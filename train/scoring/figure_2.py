"""Fig. 2: recall against the number of languages in pre-training. Needs the `report` extra."""

from pathlib import Path

from matplotlib.figure import Figure

from polyvid.dataset_scripts.building import atomic_path
from polyvid.dataset_scripts.schema import LANGUAGE_NAMES

FIGURE_COLUMNS = ("en R@1", "de R@1", "mean R@1")
"""Fig. 2 shows English and zero-shot German."""


def plot_figure_2(points: dict[int, list[tuple[float, float]]], path: Path) -> None:
    """Plot R@1 against the number of languages.

    Args:
        points: number of languages → (mean, standard deviation) for each of `FIGURE_COLUMNS`.
        path: the PNG.
    """
    figure = Figure(figsize=(11, 3.2))
    panels = figure.subplots(1, len(FIGURE_COLUMNS))
    for index, (axes, column) in enumerate(zip(panels, FIGURE_COLUMNS, strict=True)):
        values = [point[index] for point in points.values()]
        means, deviations = zip(*values, strict=True)
        axes.errorbar(
            list(points), means, deviations if any(deviations) else None, marker="o", capsize=3, color="#1b7837"
        )
        language = LANGUAGE_NAMES.get(column.split()[0], "Mean over nine languages")
        axes.set_title(f"{language} to video", fontsize=10)
        axes.set_xticks(list(points))
        axes.set_ylim(0, 1.1 * max(map(sum, values)) or None)  # starts at 0 so that noise does not look like a trend
        axes.set_xlabel("languages in pre-training")
        axes.set_ylabel("R@1 (%)")
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
