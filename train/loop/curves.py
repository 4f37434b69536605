"""Plots a run: its loss terms by step, and R@1 per language by epoch."""

from pathlib import Path

from polyvid.modeling.losses_mmp import TERMS
from polyvid.train.loop.step_log import read_steps

LINES = ("-", "--", ":", "-.")
"""The first ten languages have solid lines; with more, colours repeat."""


def plot_curves(steps_file: Path, history: list[dict], path: Path) -> None:
    """Write the plot. Does nothing if matplotlib (the `report` extra) is not installed or there are no steps.

    Args:
        steps_file: `steps.jsonl` of the run.
        history: one entry per epoch, with R@1 per language under `"R@1 en"` and so on.
        path: the PNG.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot, which keeps figures and looks for a display
    except ImportError:
        return
    steps = read_steps(steps_file) if steps_file.exists() else []
    if not steps:
        return
    languages = [name for name in history[-1] if name.startswith("R@1 ")] if history else []
    many = len(languages) > 10  # more than there are colours
    height = max(4, 1 + 0.23 * len(languages)) if many else 4
    figure = Figure(figsize=(10 if languages else 5.5, height), layout="constrained")
    axes = figure.subplots(1, 2 if languages else 1, squeeze=False)[0]
    terms = [name for name in ("loss", *TERMS) if any(name in line for line in steps)]
    for name in terms:
        found = [(line["step"], line[name]) for line in steps if line.get(name) is not None]
        axes[0].plot(*zip(*_thinned(found), strict=True), label=name)
    axes[0].set(xlabel="step", ylabel="loss", ylim=(0, None))
    axes[0].legend()
    for number, name in enumerate(languages):
        values = [entry[name] for entry in history]
        axes[1].plot([entry["epoch"] for entry in history], values, LINES[number // 10 % 4], label=name[4:])
    if languages:
        axes[1].set(xlabel="epoch", ylabel="R@1 on validation (%)", ylim=(0, None))
        axes[1].legend(**{"loc": "center left", "bbox_to_anchor": (1, 0.5)} if many else {})
    figure.savefig(path, dpi=120)


def _thinned(points: list[tuple[int, float]], most: int = 500) -> list[tuple[float, float]]:
    """At most `most` points, each the mean of a group of neighbours."""
    width = -(-len(points) // most)
    groups = [points[start : start + width] for start in range(0, len(points), width)]
    return [tuple(sum(values) / len(group) for values in zip(*group, strict=True)) for group in groups]
