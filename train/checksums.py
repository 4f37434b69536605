"""The checksums of a folder's files: `SHA256SUMS`, the format of `sha256sum`, which can verify it without this package.

Checkpoints and trained models have one, because safetensors holds no checksums.
"""

import hashlib
import re
from pathlib import Path

from polyvid.modeling.errors_mmp import PolyvidError

NAME = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64})  ([^/\0\n]+)")


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files directly in a folder, in order of their names."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != NAME)
    text = "".join(f"{sha256_of(path)}  {path.name}\n" for path in paths)
    (folder / NAME).write_text(text, encoding="utf-8")


def read_checksums(folder: Path) -> dict[str, str]:
    """File name → SHA-256; empty if the folder has no checksums.

    Raises:
        PolyvidError: if a line is not one of `sha256sum`.
        OSError: if the file cannot be read.
    """
    path = folder / NAME
    if not path.is_file():
        return {}
    try:
        lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise PolyvidError(f"{path} is damaged: it is not UTF-8.") from None
    matches = [LINE.fullmatch(line) for line in lines]
    if None in matches:
        raise PolyvidError(f"{path} is damaged: line {matches.index(None) + 1} is not a checksum and a file name.")
    return {match[2]: match[1] for match in matches if match}


def refuse_changed_files(folder: Path, advice: str) -> None:
    """Compare the files of a folder with its checksums; a folder without checksums passes.

    Args:
        advice: what to do, the end of the message.

    Raises:
        PolyvidError: if a file is missing or differs from its checksum; names it.
    """
    for name, expected in read_checksums(folder).items():
        path = folder / name
        if not path.is_file():
            raise PolyvidError(f"{path} is missing: {advice}")
        if sha256_of(path) != expected:
            raise PolyvidError(f"{path} does not match its checksum: {advice}")


def sha256_of(path: Path) -> str:
    """Of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
