"""Paths on this machine told apart from ids on the Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .errors_mmp import PolyvidError

HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
VIDEO_SUFFIXES = tuple(".3gp .avi .flv .gif .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .ts .webm .wmv".split())
FILE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".json", ".yaml")


def is_local_path(name: str | os.PathLike[str]) -> bool:
    """Whether `name` is a path, not a Hub id (`name` or `owner/name`), whether or not it exists.

    It is where it exists, is a `Path`, or could be no Hub id (`./a`, `/a/b`, `a/b/c`, `a.safetensors`); and also
    where its first part is a folder here: `outputs/demmo` is a misspelt path if there is an `outputs`.

    >>> [is_local_path(name) for name in ("google-bert/bert-base", "./model", "runs/demo/mmp", "videos.safetensors")]
    [False, True, True, True]
    """
    if not isinstance(name, str) or os.path.exists(name):
        return True
    if not HUB_ID.fullmatch(name) or name.endswith(FILE_SUFFIXES):
        return True
    return "/" in name and os.path.isdir(name.partition("/")[0])


def check_local_path(name: str | os.PathLike[str], what: str) -> None:
    """Keeps a misspelt path from being looked for on the Hub.

    Args:
        name: a path or a Hub id.
        what: the kind of thing expected, for the error: `"model"`, `"video index"`.

    Raises:
        FileNotFoundError: if `name` is a path and nothing exists there.
    """
    if is_local_path(name) and not os.path.exists(name):
        where = "" if os.path.isabs(name) else f" in {Path.cwd()}"
        raise FileNotFoundError(f"There is no {what} at {os.fspath(name)!r}{where}: check the path.")


def refuse_pickled_weights(name: str | os.PathLike[str]) -> None:
    """Keeps weights from being unpickled: a pickle can run any program.

    Args:
        name: a folder with a model in it; a Hub id passes.

    Raises:
        PolyvidError: if the folder has pickled weights and no safetensors.
    """
    folder = Path(name)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        for file in sorted(folder.glob("pytorch_model*.bin")):
            raise PolyvidError(
                f"{file} is a pickle, which could run any program, so it is not read: save the model again as "
                "safetensors (`save_pretrained` of transformers 5), or take a copy that you trust and convert it."
            )
