"""Finds the videos to extract: those in a folder, or those in a list."""

import os
from pathlib import Path

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.paths_mmp import VIDEO_SUFFIXES


def list_videos(source: str | os.PathLike[str]) -> dict[str, Path]:
    """`{video_id: path}`, in order of ids.

    Args:
        source: a folder, searched recursively, a video, or a text file with one video per line: a path (relative to
            the file's folder), or `video_id<TAB>path`. The default id is the file name without its
            suffix. Bytes that are not UTF-8 are escaped in the id (see `has_utf8_name`).

    Raises:
        FileNotFoundError: if there is no such folder or file.
        PolyvidError: if it holds no video or two with the same id, or if the list is not UTF-8.
    """
    source = Path(source)
    if source.is_dir():
        found = [(printable(path.stem), path) for path in source.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES]
    elif source.is_file() and source.suffix.lower() in VIDEO_SUFFIXES:
        found = [(printable(source.stem), source)]
    elif source.is_file():
        found = [(video_id, source.parent / path) for video_id, path in _read_list(source)]
    else:
        raise FileNotFoundError(f"There is no folder and no list of videos at {source}.")
    videos: dict[str, Path] = {}
    for video_id, path in found:
        if video_id in videos:
            raise PolyvidError(f"Two videos have the id {video_id!r}: {videos[video_id]} and {path}. Rename one.")
        videos[video_id] = path
    if not videos:
        raise PolyvidError(f"There is no video in {source} (looked for {' '.join(sorted(VIDEO_SUFFIXES))}).")
    return dict(sorted(videos.items()))


def has_utf8_name(path: Path) -> bool:
    """Whether the file name is valid UTF-8; file systems allow any bytes."""
    return printable(path.name) == path.name


def printable(name: str) -> str:
    """A name of a file, with bytes that are not UTF-8 escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _read_list(file: Path) -> list[tuple[str, str]]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise PolyvidError(
            f"{file} is neither a folder nor a UTF-8 list of videos ({error.reason} at byte {error.start})."
        ) from None
    if any("\0" in line for line in lines):
        raise PolyvidError(f"{file} holds a NUL character: it is neither a folder nor a list of videos.")
    pairs = [line.split("\t") if "\t" in line else [Path(line).stem, line] for line in lines if line]
    for pair in pairs:
        if len(pair) != 2 or not all(pair):
            raise PolyvidError(f"{file}: {'<TAB>'.join(pair)!r} is neither a path nor video_id<TAB>path.")
    return [(video_id, path) for video_id, path in pairs]
