"""What `polyvid evaluate` writes: tables of scores, the rank of every query, and the environment they came from."""

import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polyvid.dataset_scripts.building import atomic_path
from polyvid.train.scoring.closed_forms import closed_form_lines
from polyvid.train.scoring.evaluation import TEXT_TO_VIDEO, VIDEO_TO_TEXT, Ranks
from polyvid.train.scoring.language_table import language_table

RESULTS = Path("outputs/results")
"""Default output folder of `polyvid evaluate`."""

TEXT_CEILING = (
    "Text ceiling: R@1 of the English caption of the same video, found by the text backbone alone (mean over tokens, "
    "each language centred). What the backbone does not find can hardly be transferred from English."
)
SHOWN = ("R@1", "R@5", "R@10", "MedR", "MnR", "MRR", "nDCG@10")


def score_table(found: Mapping[str, Mapping[str, Ranks]], only_with_features: bool) -> dict[str, dict]:
    """direction → language → scores. With `only_with_features`, languages without any such video are left out."""
    return {
        direction: {
            language: ranks.scores(only_with_features)
            for language, ranks in by_language.items()
            if ranks.has_features.any() or not only_with_features
        }
        for direction, by_language in found.items()
    }


def environment() -> dict[str, Any]:
    """Versions, device, git revision and time: what is needed to reproduce a result."""
    packages = ("polyvid", "torch", "transformers", "datasets", "numpy")
    return {
        **{package: version(package) for package in packages},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "git_revision": git_revision(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache  # the running code stays the same even if files change; a run asks at every checkpoint
def git_revision() -> str | None:
    """The commit of this code, plus "+changes" if files were modified; None outside a repository."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def write_ranks(path: Path, found: Mapping[str, Mapping[str, Ranks]]) -> None:
    """Write the rank of every query, for `compare`."""
    arrays = {
        f"{direction}/{language}/{field}": values
        for direction, by_language in found.items()
        for language, ranks in by_language.items()
        for field, values in vars(ranks).items()
    }
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_ranks(path: Path) -> dict[str, dict[str, Ranks]]:
    """Read what `write_ranks` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: polyvid evaluate makes it.")
    found: dict[str, dict[str, dict]] = {TEXT_TO_VIDEO: {}, VIDEO_TO_TEXT: {}}
    with np.load(path) as arrays:
        for key in arrays.files:
            direction, language, field = key.split("/")
            found[direction].setdefault(language, {})[field] = arrays[key]
    return {
        direction: {language: Ranks(**fields) for language, fields in by_language.items()}
        for direction, by_language in found.items()
    }


def to_markdown(results: Mapping[str, Any]) -> str:
    """The results as tables, with the languages in the order of the paper's Table 4."""
    protocol, counts = results["protocol"], results["counts"]
    lines = [
        f"# {results['name']} on {protocol['benchmark']}",
        "",
        f"Protocol `{protocol['protocol']}`, split {protocol['split']}: {protocol['source'].rstrip('.')}. "
        f"{counts['videos']:,} videos, {counts['videos_with_features']:,} of them with features. "
        "Ties count against the model.",
    ]
    if label := results.get("label"):
        lines[-1] += f" The model was trained by {label}, so no language of it is zero-shot."
    if blank := counts.get("blank_captions"):
        lines[-1] += f" Left out as blank: {', '.join(f'{n} {language}' for language, n in blank.items())} captions."
    kinds = ["all"] if not counts["missing_videos"] else ["all", "with_features"]
    remarks = {"all": "queries of missing videos count as not found", "with_features": "only videos with features"}
    for kind in kinds:
        for direction, scores in results["scores"][kind].items():
            title = direction.replace("_", " ") + (f", {remarks[kind]}" if len(kinds) > 1 else "")
            rows = [["queries", *(str(by_score["queries"]) for by_score in scores.values()), ""]]
            for score in SHOWN:
                values = [by_score[score] for by_score in scores.values()]
                digits = 3 if score in ("MRR", "nDCG@10") else 1
                rows.append([score, *(f"{value:.{digits}f}" for value in [*values, sum(values) / len(values)])])
            ceilings = results.get("text_ceilings") if kind == "all" and direction == TEXT_TO_VIDEO else None
            if ceilings:
                rows.append(text_ceiling_row(ceilings, list(scores)))
            lines += ["", *language_table(title, list(scores), rows), *(["", TEXT_CEILING] if ceilings else [])]
    if "int8" in results:
        lines += int8_loss(results["scores"]["all"][TEXT_TO_VIDEO], results["int8"]["scores"][TEXT_TO_VIDEO])
    if "closed_forms" in results:
        lines += closed_form_lines(results["scores"]["with_features"][TEXT_TO_VIDEO], results["closed_forms"])
    if "corrected" in results:
        lines += _corrected(results["corrected"])
    intervals = [f"{language} {low:.1f}–{high:.1f}" for language, (low, high) in r1_intervals(results).items()]
    return "\n".join([*lines, "", f"95 % bootstrap intervals of text-to-video R@1: {', '.join(intervals)}.", ""])


def text_ceiling_row(ceilings: Mapping[str, Mapping], languages: Sequence[str]) -> list[str]:
    """A further row of a table: its name, a cell for each language (empty for English), and their mean."""
    values = [ceilings[language]["R@1"] for language in languages if language in ceilings]
    cells = [f"{ceilings[language]['R@1']:.1f}" if language in ceilings else "" for language in languages]
    return ["text ceiling", *cells, f"{sum(values) / len(values):.1f}"]


def int8_loss(whole: Mapping[str, Mapping], int8: Mapping[str, Mapping]) -> list[str]:
    """Lines of a table: text-to-video scores in int8 minus those in float32."""
    rows = []
    for score in SHOWN[:3]:
        losses = [int8[language][score] - whole[language][score] for language in whole]
        shown = [round(loss, 1) + 0.0 for loss in [*losses, sum(losses) / len(losses)]]  # never -0.0
        rows.append([score, *(f"{loss:+.1f}" for loss in shown)])
    return ["", *language_table("text to video, int8 less float32", list(whole), rows)]


def _corrected(corrected: Mapping[str, Any]) -> list[str]:
    """Lines of a table: text-to-video scores with corrections, and which these are."""
    scores, bank = corrected["scores"][TEXT_TO_VIDEO], corrected["bank"]
    parts = []
    if corrected["hubness"]:
        gate = "gated" if corrected["hubness"] == "gated" else "without the gate"
        own = ", of the query's language where there are such" if corrected["bank_of_own_language"] else ""
        parts.append(f"QB-Norm ({gate}, β = {corrected['beta']:g}{own})")
    if corrected["language_offsets"]:
        parts.append("language offsets")
    number = sum(bank["texts"].values())
    rows = []
    for score in SHOWN[:3]:
        values = [of_language[score] for of_language in scores.values()]
        rows.append([score, *(f"{value:.1f}" for value in [*values, sum(values) / len(values)])])
    told = f"Corrected by {' and '.join(parts)}, measured with {number:,} texts of {bank['source']}:"
    return ["", told, "", *language_table("text to video, corrected", list(scores), rows)]


def r1_intervals(results: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """The 95 % interval of text-to-video R@1 by language, in percent."""
    return {language: intervals["R@1"] for language, intervals in results["intervals_95"].items()}
