"""The demo's report: tables of the three models beside baselines and the paper's Table 4, and a bar chart."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from polyvid.dataset_scripts.schema import LANGUAGE_NAMES, LANGUAGES
from polyvid.train.demo import baselines, models
from polyvid.train.scoring.tables import published_tables

COLORS = {"none": "#b0b0b0", "mp": "#6a9bd1", "mmp": "#1b7837"}
ByLanguage = Mapping[str, Mapping[str, float]]  # language → {"R@1": percent, ...}
Scores = Mapping[str, ByLanguage]  # model → language → ...


def mean_of_other_languages(scores: ByLanguage, metric: str = "R@1") -> float:
    """Zero-shot score: the mean over all languages but English, which was fine-tuned on."""
    return statistics.mean(scores[language][metric] for language in scores if language != "en")


def recall_table(scores: Scores, metric: str, of_baselines: Mapping[str, Scores] | None = None) -> str:
    """Markdown: a row for each model and then each baseline, a column for each language, and the mean without English.

    Args:
        scores: model → language → scores.
        metric: such as `"R@1"`.
        of_baselines: baseline → model whose training data it was fitted on → language → scores.
    """
    rows = [(models.MODELS[name], by_language) for name, by_language in scores.items()]
    for kind, by_model in (of_baselines or {}).items():
        rows += [(_baseline_label(kind, name), by_language) for name, by_language in by_model.items()]
    lines = _header([metric, *LANGUAGES, "mean without en"])
    for label, by_language in rows:
        cells = [f"{by_language[language][metric]:.1f}" for language in LANGUAGES]
        lines.append(f"| {label} | {' | '.join(cells)} | {mean_of_other_languages(by_language, metric):.1f} |")
    return "\n".join(lines)


def seeds_table(runs: Scores, of_baselines: Mapping[str, Scores] | None = None) -> str:
    """Markdown: R@1 as mean ± standard deviation over seeds and splits, model by model, then baseline by baseline.

    Args:
        runs: `{model}_{split}_{seed}` → language → scores.
        of_baselines: baseline → `{model}_{split}` → language → scores. A baseline has no seed.
    """
    lines = _header(["model", "runs", "R@1 en", "R@1 mean of the other eight"])
    for name, label in models.LABELS.items():
        lines += _spread_row(label, (run for key, run in runs.items() if key.rsplit("_split_", 1)[0] == name))
    for kind, by_split in (of_baselines or {}).items():
        for name in models.LABELS:
            found = (scores for key, scores in by_split.items() if key.rsplit("_split_", 1)[0] == name)
            lines += _spread_row(_baseline_label(kind, name), found)
    return "\n".join(lines)


def published_table() -> str:
    """The rows of the paper's Table 4 that correspond to the three models: XLM-R on VTT."""
    table = published_tables()["table_4"]
    rows = {row.labels[0]: dict(zip(table.columns, row.scores, strict=True)) for row in table.rows}
    shown = {"none": "XLM-R", "mp": "XLM-R-MP", "mmp": "XLM-R-MMP"}
    lines = _header(["R@1", *LANGUAGES, "mean without en"])
    for name, row in shown.items():
        values = [rows[row][f"{language} R@1"] for language in LANGUAGES]
        cells = " | ".join(f"{value:.1f}" for value in values)
        lines.append(f"| {models.MODELS[name]} ({row}) | {cells} | {statistics.mean(values[1:]):.1f} |")
    return "\n".join(lines)


def plot_recall_by_language(scores: Scores, path: Path) -> None:
    """Bar chart of R@1: languages side by side, models within a language."""
    figure, axes = plt.subplots(figsize=(10, 4))
    width = 0.8 / len(scores)
    for number, (name, by_language) in enumerate(scores.items()):
        positions = [index + (number - (len(scores) - 1) / 2) * width for index in range(len(LANGUAGES))]
        heights = [by_language[language]["R@1"] for language in LANGUAGES]
        axes.bar(positions, heights, width, label=models.MODELS[name], color=COLORS[name])
    axes.set_xticks(range(len(LANGUAGES)), [LANGUAGE_NAMES[language] for language in LANGUAGES])
    axes.set_ylabel("R@1 (%)")
    axes.set_title("Text-to-video search after fine-tuning in English only")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _baseline_label(kind: str, name: str) -> str:
    return f"{baselines.LABELS[kind]}, data of {models.LABELS[name]}"


def _header(columns: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]


def _spread_row(label: str, runs: Iterable[ByLanguage]) -> list[str]:
    """One line of Markdown; none for fewer than two runs, which have no spread."""
    runs = list(runs)
    if len(runs) < 2:
        return []
    cells = [
        f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
        for values in ([run["en"]["R@1"] for run in runs], [mean_of_other_languages(run) for run in runs])
    ]
    return [f"| {label} | {len(runs)} | {' | '.join(cells)} |"]
