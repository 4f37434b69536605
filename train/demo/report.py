"""The demo's report: a Markdown file with the three arms beside the paper's Table 4, and a bar chart."""

import statistics
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from polyvid.dataset_scripts.schema import LANGUAGE_NAMES, LANGUAGES
from polyvid.train.scoring.tables import published_tables

ARMS = {"none": "no pre-training", "mp": "MP", "mmp": "MMP"}
CONTROL = "mmp_keywords"  # MMP that never sees a name in pre-training
COLORS = {"none": "#b0b0b0", "mp": "#6a9bd1", "mmp": "#1b7837"}
Scores = Mapping[str, Mapping[str, Mapping[str, float]]]  # arm → language → {"R@1": percent, ...}


def mean_of_other_languages(scores: Mapping[str, Mapping[str, float]], metric: str = "R@1") -> float:
    """Zero-shot score: the mean over all languages but English, which was fine-tuned on."""
    others = [scores[language][metric] for language in scores if language != "en"]
    return sum(others) / len(others)


def recall_table(scores: Scores, metric: str) -> str:
    """Markdown: one row per arm, one column per language, then the mean of the eight that were not fine-tuned on."""
    lines = [
        f"| {metric} | " + " | ".join(LANGUAGES) + " | mean without en |",
        "|---|" + "---:|" * (len(LANGUAGES) + 1),
    ]
    for arm, by_language in scores.items():
        cells = [f"{by_language[language][metric]:.1f}" for language in LANGUAGES]
        lines.append(f"| {ARMS[arm]} | {' | '.join(cells)} | {mean_of_other_languages(by_language, metric):.1f} |")
    return "\n".join(lines)


def seeds_table(runs: dict[str, dict]) -> str:
    """Markdown from the scores of runs `{arm}_{split}_{seed}`: mean ± standard deviation of R@1, arm by arm."""
    lines = ["| arm | runs | R@1 en | R@1 mean of the other eight |", "|---|---:|---:|---:|"]
    for arm, label in {**ARMS, CONTROL: "MMP, keywords only"}.items():
        scores = [run for name, run in runs.items() if name.rsplit("_split_", 1)[0] == arm]
        if len(scores) < 2:
            continue
        english = [run["en"]["R@1"] for run in scores]
        others = [mean_of_other_languages(run) for run in scores]
        cells = [f"{statistics.mean(v):.1f} ± {statistics.stdev(v):.1f}" for v in (english, others)]
        lines.append(f"| {label} | {len(scores)} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def published_table() -> str:
    """The rows of the paper's Table 4 that correspond to the three arms: XLM-R on VTT."""
    table = published_tables()["table_4"]
    rows = {row.labels[0]: dict(zip(table.columns, row.scores, strict=True)) for row in table.rows}
    shown = {"no pre-training": "XLM-R", "MP": "XLM-R-MP", "MMP": "XLM-R-MMP"}
    lines = [
        "| R@1 | " + " | ".join(LANGUAGES) + " | mean without en |",
        "|---|" + "---:|" * (len(LANGUAGES) + 1),
    ]
    for arm, row in shown.items():
        values = [rows[row][f"{language} R@1"] for language in LANGUAGES]
        cells = " | ".join(f"{value:.1f}" for value in values)
        lines.append(f"| {arm} ({row}) | {cells} | {sum(values[1:]) / 8:.1f} |")
    return "\n".join(lines)


def plot_recall_by_language(scores: Scores, path: Path) -> None:
    """Bar chart of R@1: languages side by side, arms within a language."""
    figure, axes = plt.subplots(figsize=(10, 4))
    width = 0.8 / len(scores)
    for number, (arm, by_language) in enumerate(scores.items()):
        positions = [index + (number - (len(scores) - 1) / 2) * width for index in range(len(LANGUAGES))]
        heights = [by_language[language]["R@1"] for language in LANGUAGES]
        axes.bar(positions, heights, width, label=ARMS[arm], color=COLORS[arm])
    axes.set_xticks(range(len(LANGUAGES)), [LANGUAGE_NAMES[language] for language in LANGUAGES])
    axes.set_ylabel("R@1 (%)")
    axes.set_title("Text-to-video search after fine-tuning in English only")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
