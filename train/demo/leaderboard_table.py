"""The table of `leaderboard`, from its results file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.train.demo.run import OUTPUT
from polyvid.train.scoring.language_table import language_table
from polyvid.train.scoring.results import text_ceiling_row

STYLES, STAMPS = OUTPUT.parent / "fluent_emoji_9", OUTPUT.parent / "tux8"


@dataclass(frozen=True)
class Pictures:
    """A set of pictures that is searched."""

    title: str
    dataset: str
    config: str
    folder: Path | None  # what `polyvid fetch` has made; None: part of the package
    caption_kinds: list[str] | None

    @property
    def features(self) -> Path:
        return self.folder / "features" if self.folder else OUTPUT / "features"


TESTS = {
    "fluent": Pictures("Fluent: the style trained on", "fluent_emoji_9", "split_0", None, ["name"]),
    "noto": Pictures("Noto: the same concepts in another style", "fluent_emoji_9", "unseen_style", STYLES, ["name"]),
    "tux8": Pictures("Tux-8: photos and drawings, eight languages", "tux8", "tux8", STAMPS, None),
    "tux_sw": Pictures("Tux-8: those with Swahili, nine languages", "tux8", "tux_sw", STAMPS, None),
}


def to_markdown(content: Mapping[str, Any]) -> str:
    """The leaderboard, a table for each test, best first. Models of one name are averaged over their seeds."""
    where = content["environment"]
    revisions = sorted({_short(row.get("revision")) for row in content["rows"]})
    lines = [
        "# Leaderboard",
        "",
        "Text to video, R@1 in percent; the mean is over all languages of the test, with its 95 % interval (videos",
        "resampled). Models that were trained with several seeds are averaged over them; in brackets is the range of",
        "their means. Everything was trained on emoji alone: on names and keywords of clips in the styles named. CPU",
        "minutes are those of training, without features; the second of two regressions reuses sentence vectors.",
        f"Made by `make leaderboard`, measured at revision {', '.join(revisions)}; {where['date'][:10]}.",
    ]
    for test, pictures in TESTS.items():
        groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in content["rows"]:
            if test in row["tests"]:
                groups.setdefault((row["method"], row["pre-training"], row["styles"]), []).append(row)
        if not groups:
            continue
        videos = next(iter(groups.values()))[0]["tests"][test]["videos"]
        heads = ["method", "pre-training", "styles", "en", "mean", "95 %", "worst language", "sw", "seeds", "CPU min"]
        tux = pictures.dataset == "tux8"
        heads[8:8] = ["trained names", "new names"] if tux else []
        lines += ["", f"## {pictures.title}", "", f"{videos} videos; chance {100 / videos:.2f}.", ""]
        lines += [f"| {' | '.join(heads)} |", f"|---|---|---|{'---:|' * (len(heads) - 3)}"]
        found = {key: [row["tests"][test] for row in rows] for key, rows in groups.items()}
        ranked = sorted(groups, key=lambda key: mean(own["mean"] for own in found[key]), reverse=True)
        for key in ranked:
            lines.append(f"| {' | '.join([*key, *_cells(found[key], tux), *_costs(groups[key], found[key])])} |")
        languages = [language for language in LANGUAGES if language in found[ranked[0]][0]["R@1"]]
        rows = [[", ".join(filter(None, key)), *_by_language(found[key], languages)] for key in ranked]
        ceilings = content["text_ceilings"].get(test)
        rows += [text_ceiling_row(ceilings, languages)] if ceilings else []
        lines += ["", *language_table("R@1 by language", languages, rows)]
    if any(content["text_ceilings"].values()):
        lines += ["", "Text ceiling: how often the text backbone alone finds the English caption of the same video."]
    return "\n".join(lines) + "\n"


def _short(revision: str | None) -> str:
    commit, changed, _ = (revision or "unknown").partition("+")
    return commit[:12] + (" with changes" if changed else "")


def _by_language(scores: Sequence[Mapping[str, Any]], languages: Sequence[str]) -> list[str]:
    means = [mean([own["R@1"][language] for own in scores]) for language in languages]
    return [f"{value:.1f}" for value in (*means, mean(means))]


def _cells(scores: Sequence[Mapping[str, Any]], tux: bool) -> list[str]:
    by_language = {language: mean([own["R@1"][language] for own in scores]) for language in scores[0]["R@1"]}
    worst = min(by_language, key=lambda language: by_language[language])
    low, high = (mean([own["interval"][end] for own in scores]) for end in (0, 1))
    swahili = f"{by_language['sw']:.1f}" if "sw" in by_language else ""
    cells = [f"{by_language['en']:.1f}", f"{mean([own['mean'] for own in scores]):.1f}", f"{low:.1f}–{high:.1f}"]
    cells += [f"{worst} {by_language[worst]:.1f}", swahili]
    for label in ("trained", "new") if tux else ():
        means = [own[label]["mean"] for own in scores if own[label]["mean"] is not None]
        cells.append(f"{mean(means):.1f} ({scores[0][label]['videos']})" if means else "")
    return cells


def _costs(rows: Sequence[Mapping[str, Any]], scores: Sequence[Mapping[str, Any]]) -> list[str]:
    minutes = [row["cpu_minutes"] for row in rows if row["cpu_minutes"] is not None]
    seeds = len({row["seed"] for row in rows} - {None})
    means = sorted(own["mean"] for own in scores)
    spread = f" ({means[0]:.1f}–{means[-1]:.1f})" if seeds > 1 else ""
    return [f"{seeds}{spread}" if seeds else "", f"{mean(minutes):.1f}" if minutes else ""]
