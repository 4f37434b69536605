"""The clips of Fluent-Emoji-9 in three further styles of drawing: `polyvid fetch fluent_emoji_9`.

The concepts, captions and splits are those of the dataset; only the drawings differ. They are not part of this package:
each style has a licence of its own, so each goes to a folder of its own, with a note of where it comes from.
"""

import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polyvid.dataset_scripts.building import atomic_path
from polyvid.dataset_scripts.clips import draw_svg, write_stills
from polyvid.dataset_scripts.fluent_emoji_9.build import HERE, to_video_id
from polyvid.dataset_scripts.fluent_emoji_9.fluent_emoji_9 import FLUENT, clip_path
from polyvid.dataset_scripts.packages import NpmPackage, check_given, read_json
from polyvid.modeling.errors_mmp import PolyvidError


@dataclass(frozen=True)
class Style:
    """A set of drawings on npm, in the format of Iconify."""

    title: str
    authors: str
    source: str
    license: str
    license_url: str
    package: NpmPackage


STYLES = {
    "noto": Style(
        "Noto Emoji",
        "Google LLC",
        "https://github.com/googlefonts/noto-emoji",
        "Apache License 2.0",
        "https://www.apache.org/licenses/LICENSE-2.0",
        NpmPackage("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    ),
    "twemoji": Style(
        "Twemoji",
        "Twitter, Inc and other contributors",
        "https://github.com/jdecked/twemoji",
        "CC BY 4.0",
        "https://creativecommons.org/licenses/by/4.0/",
        NpmPackage(
            "@iconify-json/twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"
        ),
    ),
    "openmoji": Style(
        "OpenMoji",
        "the OpenMoji project",
        "https://github.com/hfg-gmuend/openmoji",
        "CC BY-SA 4.0",
        "https://creativecommons.org/licenses/by-sa/4.0/",
        NpmPackage(
            "@iconify-json/openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"
        ),
    ),
}


def fetch(output: Path, given: Sequence[Path] = (), workers: int | None = None) -> None:
    """Write `output/<style>/<video id>.mp4` and `output/<style>/ATTRIBUTION.md` for each style, Fluent among them.

    If the package of a style cannot be fetched, the other styles are still made.

    Args:
        given: files of packages that need no download.
        workers: processes that draw. Default: the number of cores.

    Raises:
        FileNotFoundError, PolyvidError: for a file in `given` that nothing would read.
        PolyvidError: at the end, if a style could not be made, or not all of it; says which and why.
    """
    check_given(given, [style.package.file_name for style in STYLES.values()])
    with open(HERE / "splits.csv", newline="") as file:
        concepts = [row["video_id"] for row in csv.DictReader(file)]
    for concept in concepts:
        copy = clip_path(output, FLUENT, concept)
        if not copy.exists():
            with atomic_path(copy) as unfinished:
                shutil.copyfile(HERE / "clips" / f"{concept}.mp4", unfinished)
    with atomic_path(output / FLUENT / "LICENSE") as unfinished:
        shutil.copyfile(HERE / "LICENSE-animations", unfinished)
    failures = []
    for name, style in STYLES.items():
        try:
            _make(name, style, concepts, output, given, workers)
        except PolyvidError as error:
            failures.append(f"{style.title}: {error}")
            print(f"{output / name}: not made, see below")
        else:
            print(f"{output / name}: {len(concepts):,} clips, {style.license}")
    if failures:
        raise PolyvidError(" ".join(failures))


def _make(
    name: str, style: Style, concepts: Sequence[str], output: Path, given: Sequence[Path], workers: int | None
) -> None:
    paths = {concept: clip_path(output, name, concept) for concept in concepts}
    if not all(path.exists() for path in paths.values()):
        drawings = read_drawings(style.package.read(given))
        if missing := [concept for concept in concepts if concept not in drawings]:
            raise PolyvidError(
                f"expected drawings of {len(concepts):,} concepts, found {len(concepts) - len(missing):,}; the first "
                f"that is missing is {missing[0]}."
            )
        write_stills({paths[concept]: drawings[concept] for concept in concepts}, draw_svg, name, workers)
    attribution = (
        f"# {style.title}\n\nDrawings by {style.authors} ({style.source}), licensed under {style.license} "
        f"({style.license_url}), as distributed in the npm package {style.package.name} {style.package.version}.\n\n"
        "Changed: each drawing was put on white, drawn with 224 × 224 pixels, and stored as a video of one frame.\n"
    )
    with atomic_path(output / name / "ATTRIBUTION.md") as unfinished:
        unfinished.write_text(attribution, encoding="utf-8")


def read_drawings(package: bytes) -> dict[str, str]:
    """Concept (the video id of Fluent-Emoji-9) → SVG, from a package in the format of Iconify.

    Raises:
        PolyvidError: if it is not such a package.
    """
    icons, characters = read_json(package, "icons.json"), read_json(package, "chars.json")
    drawings = {}
    for code_points, name in characters.items():
        icon = icons["icons"].get(name)
        if icon is not None:
            sizes = {"width": icons.get("width", 16), "height": icons.get("height", 16)} | icon  # 16 is Iconify's
            box = f"{icon.get('left', 0)} {icon.get('top', 0)} {sizes['width']} {sizes['height']}"
            drawings[to_video_id(code_points.split("-"))] = (
                '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="{box}" width="{sizes["width"]}" height="{sizes["height"]}">{icon["body"]}</svg>'
            )
    return drawings
