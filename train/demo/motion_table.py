"""The table of `motion`, from its results file."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from polyvid.dataset_scripts.emoji_motion.emoji_motion import QUESTIONS
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.train.scoring.language_table import language_table

HEADS = {
    "mean": "mean pooling (ridge regression)",
    "none": "the paper's heads (no positions)",
    "sinusoidal": "heads with positions",
}
TITLES = {
    "direction": "Forwards or backwards?",
    "speed": "Slow or fast?",
    "order": "Which of two came first?",
}


def to_markdown(content: Mapping[str, Any]) -> str:
    """The results as tables: one of accuracies, one of recall, and one for each question with all languages.

    Args:
        content: `rows` and `environment`, as `polyvid.train.demo.motion` writes them.
    """
    groups = {
        config: {
            heads: [row for row in content["rows"] if (row["config"], row["heads"]) == (config, heads)]
            for heads in HEADS
        }
        for config in QUESTIONS
    }
    seeds = len({row["seed"] for row in content["rows"]} - {None})
    revision, changed, _ = (content["environment"]["git_revision"] or "unknown").partition("+")
    questions = [(config, question) for config, own in QUESTIONS.items() for question in own]
    lines = [
        "# Emoji-Motion: can a model tell in which order things happen?",
        "",
        "How often a caption is nearer to its own clip than to the one with the same frames in another order, in "
        f"percent (chance: 50). Mean of nine languages and {seeds} seeds; in brackets the 95 % interval over test "
        "clips (mean of the seeds' intervals) and the range over seeds. Training saw English captions alone.",
        "",
        f"| | {' | '.join(TITLES[question] for _, question in questions)} |",
        f"|---|{'---:|' * len(questions)}",
    ]
    for heads, label in HEADS.items():
        cells = [
            _accuracy([row["questions"][question] for row in groups[config][heads]]) for config, question in questions
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    lines += [
        "",
        "How often the best of all test clips shows the right things, in whatever order, in percent (mean of nine "
        "languages), and minutes of CPU for training and scoring one model:",
        "",
        f"| | {' | '.join(f'`{config}` | minutes' for config in QUESTIONS)} |",
        f"|---|{'---:|---:|' * len(QUESTIONS)}",
    ]
    for heads, label in HEADS.items():
        cells = [cell for config in QUESTIONS for cell in _costs(groups[config][heads])]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    chances = ", ".join(f"{100 / own['none'][0]['groups']:.1f} in `{config}`" for config, own in groups.items())
    lines += ["", f"Chance: {chances}."]
    for config, question in questions:
        table = [
            [label, *_by_language([row["questions"][question]["accuracy"] for row in groups[config][heads]])]
            for heads, label in HEADS.items()
        ]
        lines += ["", *language_table(TITLES[question], list(LANGUAGES), table)]
    lines += [
        "",
        f"Measured with `python -m polyvid.train.demo.motion --seeds {seeds}` on commit {revision[:12]}"
        f"{' with changes' if changed else ''}.",
    ]
    return "\n".join(lines) + "\n"


def _accuracy(scores: Sequence[Mapping[str, Any]]) -> str:
    means = sorted(own["mean"] for own in scores)
    low, high = (mean([own["interval"][end] for own in scores]) for end in (0, 1))
    spread = f"; {means[0]:.1f}–{means[-1]:.1f}" if len(means) > 1 else ""
    return f"{mean(means):.1f} ({low:.1f}–{high:.1f}{spread})"


def _costs(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    recall = mean([mean(row["R@1"].values()) for row in rows])
    return [f"{recall:.1f}", f"{mean([row['cpu_minutes'] for row in rows]):.1f}"]


def _by_language(accuracies: Sequence[Mapping[str, float]]) -> list[str]:
    values = [mean([own[language] for own in accuracies]) for language in LANGUAGES]
    return [f"{value:.1f}" for value in (*values, mean(values))]
