"""What `polyvid search` is asked to search: a folder, a list or a pattern of videos, or an index."""

import glob
import hashlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.paths_mmp import VIDEO_SUFFIXES, is_local_path
from polyvid.train.extraction.listing import list_videos, printable

MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Source:
    """Videos on this machine.

    Attributes:
        name: as it was typed.
        identity: the same for the same folder, list or pattern, from wherever it is named.
        files: `{video_id: path}`, in order of ids. The id is the path below the folder, with `/`; for lists it is as in
            `polyvid extract`.
    """

    name: str
    identity: str
    files: dict[str, Path]

    def index_path(self) -> Path:
        """Where the index of these videos is kept by default."""
        stem = re.sub(r"[^\w.-]+", "-", Path(os.path.abspath(self.name)).name).strip("-.") or "videos"
        digest = hashlib.blake2b(self.identity.encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
        return cache_folder() / "indexes" / f"{stem[:60]}-{digest}.safetensors"


def find_source(target: str) -> Source | None:
    """The videos that `target` means; None if it is an index: a file, or the Hub id of one.

    Raises:
        PolyvidError: if there is no video where it points to, and what `list_videos` refuses.
        FileNotFoundError: if it is a path where nothing exists.
    """
    path = Path(target)
    if path.is_dir():
        found = [file for file in path.rglob("*") if _is_video(file) and not _is_hidden(file.relative_to(path))]
        if not found and next(path.glob("*.parquet"), None):
            raise PolyvidError(f"{target} holds features, not videos: polyvid index makes the index of them to search.")
        return _source(target, os.path.realpath(path), path, found)
    if path.is_file():
        if path.suffix.lower() in VIDEO_SUFFIXES:
            return _source(target, os.path.realpath(path), path.parent, [path])
        return None if _is_safetensors(path) else Source(target, os.path.realpath(path), list_videos(path))
    if MAGIC.search(target):
        # Ids are paths below the last folder before the pattern begins.
        root = Path(target[: MAGIC.search(target).start()] + "x").parent  # type: ignore[union-attr]
        found = [Path(name) for name in glob.glob(target, recursive=True) if _is_video(Path(name))]
        return _source(target, os.path.abspath(target), root, found)
    if is_local_path(target) and path.suffix != ".safetensors":
        raise FileNotFoundError(f"There is no folder, list of videos or index at {target!r}: check the path.")
    return None


def cache_folder() -> Path:
    """The user's folder for what can be made again: `XDG_CACHE_HOME/polyvid`, or where the system keeps such files."""
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "polyvid"
    if sys.platform == "win32" and (folder := os.environ.get("LOCALAPPDATA")):
        return Path(folder) / "polyvid" / "Cache"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "polyvid"


def _source(target: str, identity: str, root: Path, found: list[Path]) -> Source:
    if not found:
        raise PolyvidError(f"There is no video in {target} (looked for {' '.join(sorted(VIDEO_SUFFIXES))}).")
    return Source(target, identity, {printable(path.relative_to(root).as_posix()): path for path in sorted(found)})


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_safetensors(path: Path) -> bool:
    """Whether a file is an index, maybe a damaged one, rather than a list: safetensors begin with a length and `{`."""
    with open(path, "rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"
