"""The demo's report: tables of the three models beside baselines and the paper's Table 4, and a bar chart."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

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


def ceilings_sentence(ceilings: ByLanguage) -> str:
    """What the text backbone finds by itself; nothing if that was not measured."""
    if not ceilings:
        return ""
    shown = ", ".join(f"{language} {scores['R@1']:.1f}" for language, scores in ceilings.items())
    return (
        "How far the text backbone alone gets: the English name of the same clip is found among all English names, "
        f"without any video, with R@1 {shown}."
    )


def seeds_table(measured: Mapping[str, Any]) -> str:
    """Markdown: R@1 as mean ± standard deviation over seeds and splits, for models, random starts and baselines.

    Baselines have no seed: one of their runs is one split. They are shown for the splits that models were trained on.

    Args:
        measured: what `polyvid.train.demo.seeds` writes: `runs` and `random_start` (`{model}_{split}_{seed}` → language
            → scores) and `baselines` (baseline → `{model}_{split}` → language → scores); any of them may be missing.
    """
    lines = _header(["model", "splits", "runs", "R@1 en", "R@1 mean of the other eight"])
    trained = measured.get("runs", {})
    for name, label in models.LABELS.items():
        lines += _spread_row(label, _runs_of(name, trained))
    for name, label in models.LABELS.items():
        lines += _spread_row(f"{label}, random start", _runs_of(name, measured.get("random_start", {})))
    splits = {_split(key) for key in [*trained, *measured.get("random_start", {})]}
    for kind, by_split in measured.get("baselines", {}).items():
        shown = {key: scores for key, scores in by_split.items() if not splits or _split(key) in splits}
        for name in models.LABELS:
            lines += _spread_row(_baseline_label(kind, name), _runs_of(name, shown))
    return "\n".join(lines)


def summary_table(measured: Mapping[str, Any]) -> str:
    """Markdown: what `seeds_table` says, one row for each model's training data and one column for each method.

    Cells are R@1 in English / mean of the other eight, each mean ± standard deviation. Baselines are those of the
    splits that models were trained on.
    """
    columns = {"warm start": measured.get("runs", {}), "random start": measured.get("random_start", {})}
    splits = {_split(key) for runs in columns.values() for key in runs}
    for kind, by_split in measured.get("baselines", {}).items():
        columns[baselines.LABELS[kind]] = {key: scores for key, scores in by_split.items() if _split(key) in splits}
    columns = {label: runs for label, runs in columns.items() if runs}
    lines = _header(["pre-training", *columns])
    for name, label in models.LABELS.items():
        cells = [_spread(_runs_of(name, runs)) for runs in columns.values()]
        lines.append(f"| {label} | {' | '.join(' / '.join(cell) if cell else '' for cell in cells)} |")
    return "\n".join(lines)


def published_table() -> str:
    """The rows of the paper's Table 4 that correspond to the three models: XLM-R on VTT."""
    table = published_tables()["table_4"]
    rows = {row.labels[0]: dict(zip(table.columns, row.scores, strict=True)) for row in table.rows}
    shown = {"none": "XLM-R", "mp": "XLM-R-MP", "mmp": "XLM-R-MMP"}
    lines = _header(["R@1", *LANGUAGES, "mean without en"])
    for name, row in shown.items():
        values = [cast(float, rows[row][f"{language} R@1"]) for language in LANGUAGES]  # all are in print
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


def _split(key: str) -> str:
    """`"0"` of `mmp_split_0_2` or `mmp_split_0`."""
    return key.rsplit("_split_", 1)[1].split("_")[0]


def _runs_of(model: str, runs: Scores) -> dict[str, ByLanguage]:
    return {key: scores for key, scores in runs.items() if key.rsplit("_split_", 1)[0] == model}


def _spread_row(label: str, runs: Scores) -> list[str]:
    """One line of Markdown; none without runs."""
    cells = _spread(runs)
    splits = " ".join(sorted({_split(key) for key in runs}))
    return [f"| {label} | {splits} | {len(runs)} | {' | '.join(cells)} |"] if cells else []


def _spread(runs: Scores) -> list[str]:
    """R@1 in English and its mean over the other languages, as mean ± standard deviation; a single run has none."""
    if not runs:
        return []
    english = [run["en"]["R@1"] for run in runs.values()]
    others = [mean_of_other_languages(run) for run in runs.values()]
    if len(runs) == 1:
        return [f"{values[0]:.1f}" for values in (english, others)]
    return [f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" for values in (english, others)]
