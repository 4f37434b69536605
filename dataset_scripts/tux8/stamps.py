"""The stamps of Tux Paint: `polyvid fetch tux8` makes clips and captions from Debian's package of them.

A stamp is a picture (`cat.png`, `cat.svg` or both) and a text file: its first line is the English caption, the others
are `<language>.utf8=<caption>`. Left out are the symbols (letters, signs, coins), and stamps whose English caption
another one has already: a query for it would have two right answers.
"""

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import langcodes
import pyarrow as pa
import pyarrow.parquet as pq
from langcodes.tag_parser import LanguageTagError
from PIL import Image

from polyvid.dataset_scripts.building import atomic_path
from polyvid.dataset_scripts.clips import draw_svg, read_picture, write_stills
from polyvid.modeling.errors_mmp import PolyvidError

PACKAGE = "tuxpaint-stamps-default"
INSTALLED = "usr/share/tuxpaint/stamps"
BY_HAND = f"get it with `apt-get download {PACKAGE}` on Debian or Ubuntu, and pass the .deb file as --package"
LEFT_OUT = "symbols"
DRAWINGS = ("cartoon", "drawing")  # in the path of a stamp; SVGs are drawings too
SCRATCH = ".stamps.incomplete"  # how the name of a folder of unpacked stamps begins
CAPTIONS = pa.schema([(name, pa.string()) for name in ("video_id", "category", "kind", "language", "text")])
"""A row of `captions.parquet`: a caption of a stamp. `kind` is photo or drawing."""

SPELLED = {"zh-CN": "zh", "sr-latin": "sr-Latn"}
"""Codes of Tux Paint that BCP 47 spells otherwise. Its Chinese is written in simplified characters, as ours is."""


def fetch(output: Path, given: Sequence[Path] = (), workers: int | None = None) -> None:
    """Write `output/clips/<video id>.mp4` and `output/captions.parquet`.

    Args:
        given: the .deb file, or the folder that it installs (`/usr/share/tuxpaint/stamps`). Default: downloaded by apt.
        workers: processes that draw. Default: the number of cores.

    Raises:
        FileNotFoundError: if there is no such package.
        PolyvidError: if the package cannot be fetched or holds no stamps, or if pictures cannot be drawn; says which.
    """
    captions = output / "captions.parquet"
    for left in output.glob(f"{SCRATCH}*"):  # by a run that was killed
        shutil.rmtree(left)
    if captions.exists():  # written last
        if not given:
            shutil.rmtree(output / "package", ignore_errors=True)
        print(f"{output}: nothing to do")
        return
    if len(given) > 1:
        raise PolyvidError(f"{PACKAGE} is one package: pass one --package.")
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=output) as scratch:
        folder = find_stamps(given[0]) if given else None
        if folder is None:
            package = given[0] if given else download(output)
            print(f"Unpacking {package}")
            folder = unpack(package, Path(scratch))
        stamps = read_stamps(folder)
        pictures = {output / "clips" / f"{video_id}.mp4": stamp["picture"] for video_id, stamp in stamps.items()}
        write_stills(pictures, draw, "tux8", workers)
    rows = [
        {"video_id": video_id, "category": stamp["category"], "kind": stamp["kind"], "language": language, "text": text}
        for video_id, stamp in stamps.items()
        for language, text in stamp["captions"].items()
    ]
    if unknown := sorted({row["language"] for row in rows if not langcodes.tag_is_valid(row["language"])}):
        print(f"Codes that are no language, kept as they are: {' '.join(unknown)}")
    with atomic_path(captions) as unfinished:
        pq.write_table(pa.Table.from_pylist(rows, CAPTIONS), unfinished, compression="zstd")
    if not given:
        shutil.rmtree(output / "package")
    languages = len({row["language"] for row in rows})
    print(f"{output}: {len(stamps):,} clips, {len(rows):,} captions in {languages} languages")


def download(output: Path) -> Path:
    """The package, fetched by apt into `output/package`, where an earlier run may have left it.

    Raises:
        PolyvidError: if there is no apt here, or no such package for it.
    """
    folder = output / "package"
    if not (found := list(folder.glob("*.deb"))):
        folder.mkdir(exist_ok=True)
        try:
            done = subprocess.run(
                ["apt-get", "download", "--quiet", PACKAGE], cwd=folder, capture_output=True, text=True
            )
        except FileNotFoundError:
            raise PolyvidError(f"There is no apt-get here to fetch {PACKAGE} with: {BY_HAND}.") from None
        found = list(folder.glob("*.deb"))
        if done.returncode or not found:
            reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
            raise PolyvidError(f"{PACKAGE} cannot be fetched ({reason}): {BY_HAND}.")
    return found[0]


def find_stamps(package: Path) -> Path | None:
    """The folder of stamps, if `package` is a folder that is one or holds one; None if it is a file.

    Raises:
        FileNotFoundError: if it does not exist.
        PolyvidError: if there are no stamps in the folder.
    """
    if not package.exists():
        raise FileNotFoundError(f"There is no package {package}.")
    if package.is_file():
        return None
    for folder in (package / INSTALLED, package):
        if next(folder.rglob("*.txt"), None):
            return folder
    raise PolyvidError(f"There are no stamps in {package}: pass the folder {INSTALLED}, or the .deb file.")


def unpack(package: Path, folder: Path) -> Path:
    """Put the pictures and texts of a .deb file into a folder; the sounds are left out. Returns where the stamps are.

    Raises:
        PolyvidError: if it cannot be unpacked, or holds no stamps.
    """
    with tempfile.TemporaryFile() as said:  # a pipe that nobody reads would stop dpkg-deb
        try:
            process = subprocess.Popen(
                ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE, stderr=said
            )
        except FileNotFoundError:
            raise PolyvidError(
                f"There is no dpkg-deb here to unpack {package} with: unpack it elsewhere, such as with `ar x` and "
                f"`tar xf data.tar.xz`, and pass the folder {INSTALLED} as --package."
            ) from None
        assert process.stdout is not None
        reason = ""
        with process, process.stdout:
            try:
                with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                    for member in archive:
                        if member.isreg() and member.name.endswith((".png", ".svg", ".txt")):
                            archive.extract(member, folder, filter="data")
                while process.stdout.read(1 << 16):  # else the end of the padding has no reader
                    pass
            except tarfile.TarError as error:
                reason = str(error)
        if reason or process.returncode:
            said.seek(0)
            reason = said.read().decode(errors="replace").strip() or reason
            raise PolyvidError(f"{package} cannot be unpacked ({reason}): delete it, and get it again.")
    if not (stamps := folder / INSTALLED).is_dir():
        raise PolyvidError(f"{package} holds no {INSTALLED}: it is not {PACKAGE}.")
    return stamps


def read_stamps(folder: Path) -> dict[str, dict[str, Any]]:
    """Video id → `picture` (a file), `category`, `kind` (photo or drawing) and `captions` (language → text).

    The id is the path of the stamp joined by dashes: `animals-birds-swan`. A stamp in both formats is read as PNG.

    Raises:
        PolyvidError: if there are none, if the text of one is not UTF-8, or if two have one id; names the file.
    """
    stamps: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    for file in sorted(folder.rglob("*.txt")):
        parts = file.relative_to(folder).with_suffix("").parts
        pictures = [path for path in (file.with_suffix(".png"), file.with_suffix(".svg")) if path.exists()]
        if not pictures or parts[0] == LEFT_OUT:
            continue
        captions = read_captions(file)
        if captions["en"].casefold() in seen:
            continue
        seen.add(captions["en"].casefold())
        drawn = pictures[-1].suffix == ".svg" or not {*DRAWINGS}.isdisjoint("_".join(parts).split("_"))
        kind = "drawing" if drawn else "photo"
        video_id = "-".join(parts)
        if video_id in stamps:
            raise PolyvidError(f"{file} has the same id as {stamps[video_id]['picture']}: {video_id}. Rename one.")
        stamps[video_id] = {"picture": pictures[0], "category": parts[0], "kind": kind, "captions": captions}
    if not stamps:
        raise PolyvidError(f"There are no stamps in {folder}.")
    return stamps


def read_captions(file: Path) -> Mapping[str, str]:
    """Language → caption. Codes are BCP 47 where they can be; others are kept.

    Raises:
        PolyvidError: if the file is not UTF-8, or its first line is empty.
    """
    try:
        first, *others = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise PolyvidError(f"{file} is not UTF-8 ({error.reason} at byte {error.start}).") from None
    if not first.strip():
        raise PolyvidError(f"{file} has no English caption: its first line is empty.")
    captions = {"en": first.strip()}
    for line in others:
        code, _, text = line.partition(".utf8=")
        if text.strip():
            captions.setdefault(language_of(code), text.strip())
    return captions


def language_of(code: str) -> str:
    """A code of Tux Paint as BCP 47.

    >>> [language_of(code) for code in ("zh_CN", "zh_TW", "pt_BR", "ca@valencia", "sr@latin", "x?")]
    ['zh', 'zh-TW', 'pt-BR', 'ca-valencia', 'sr-Latn', 'x?']
    """
    tag = code.replace("_", "-").replace("@", "-")
    try:
        return langcodes.standardize_tag(SPELLED.get(tag, tag))
    except LanguageTagError:
        return code


def draw(picture: Path) -> Image.Image:
    """A stamp as a frame."""
    return draw_svg(picture) if picture.suffix == ".svg" else read_picture(picture)
