"""The table of `leaderboard`, from its results file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from polyvid.train.demo.run import OUTPUT

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
    lines = [
        "# Leaderboard",
        "",
        "Text to video, R@1 in percent; the mean is over all languages of the test, with its 95 % interval (videos",
        "resampled). Everything was trained on emoji alone: on names and keywords of clips in the styles named.",
        f"Made by `make leaderboard` at revision {(where['git_revision'] or 'unknown')[:12]}, {where['date'][:10]}.",
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
        for key in sorted(groups, key=lambda key: mean(own["mean"] for own in found[key]), reverse=True):
            lines.append(f"| {' | '.join([*key, *_cells(found[key], tux), *_costs(groups[key])])} |")
        if ceilings := content["text_ceilings"].get(test):
            shown = ", ".join(f"{language} {scores['R@1']:.1f}" for language, scores in ceilings.items())
            lines += ["", f"Text ceilings (the English caption found by the backbone alone): {shown}."]
    return "\n".join(lines) + "\n"


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


def _costs(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    minutes = [row["cpu_minutes"] for row in rows if row["cpu_minutes"] is not None]
    seeds = len({row["seed"] for row in rows} - {None})
    return [str(seeds) if seeds else "", f"{mean(minutes):.1f}" if minutes else ""]
