"""Loading the checkpoints that the authors of a network published, unchanged and key by key."""

import hashlib
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import nn

from .errors_mmp import PolyvidError


def find_official_checkpoint(source: str | Path) -> Path:
    """The local path of a checkpoint; a URL is downloaded, once, into `torch.hub`'s cache.

    Raises:
        FileNotFoundError: there is no such local file.
        ConnectionError: the download failed.
    """
    source = str(source)
    if urlparse(source).scheme not in ("http", "https"):
        path = Path(source).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"No checkpoint at {path}: give the path of the downloaded .pth file, or its URL.")
        return path
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(source).path).name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(source, str(path))  # under a temporary name until it is whole
        except OSError as error:
            raise ConnectionError(
                f"Cannot download {source} ({error}). Download it by hand and give its path."
            ) from None
    return path


def read_official_checkpoint(source: str | Path, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Reads a `.pth` state dict from a local path or a URL.

    Args:
        source (`str` or `Path`): a URL is downloaded once into `torch.hub`'s cache.
        sha256 (`str`, *optional*): the file's checksum, or its first digits. Where it is not given, the eight digits
            that PyTorch puts into file names (`name-9bae36ae.pth`) are checked.

    Returns:
        `dict[str, torch.Tensor]` on the CPU.

    Raises:
        FileNotFoundError: no such local file.
        PolyvidError: the checksum differs, or the file is no state dict.
    """
    path = find_official_checkpoint(source)
    named = re.search(r"-([0-9a-f]{8,64})\.pth$", path.name)
    sha256 = sha256.lower() if sha256 else named.group(1) if named else ""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(sha256):
        raise PolyvidError(f"{path} is damaged or another file: its sha256 is {digest}, expected {sha256}. Remove it.")
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).partition("\n")[0] or "it ends early"
        raise PolyvidError(f"{path} is not a PyTorch checkpoint: {reason}") from None
    if not isinstance(state_dict, dict) or not all(torch.is_tensor(value) for value in state_dict.values()):
        raise PolyvidError(f"{path} holds no state dict (names with a tensor each).")
    return state_dict


def load_strictly(model: nn.Module, state_dict: Mapping[str, torch.Tensor], ignored: Sequence[str]) -> None:
    """Loads `state_dict` into `model`; every key must match, but for the prefixes in `ignored`.

    Raises:
        PolyvidError: lists all missing and unexpected keys and all shapes that differ.
    """
    kept = {key: value for key, value in state_dict.items() if not key.startswith(tuple(ignored))}
    own = model.state_dict()
    # A batch norm with a fixed momentum never reads its step counter, and checkpoints converted from other frameworks
    # may lack it; PyTorch forgives that too.
    missing = sorted(key for key in own.keys() - kept.keys() if not key.endswith("num_batches_tracked"))
    problems = [f"missing: {key}" for key in missing]
    problems += [f"unexpected: {key}" for key in sorted(kept.keys() - own.keys())]
    problems += [
        f"shape of {key}: {tuple(kept[key].shape)} in the file, {tuple(own[key].shape)} in {type(model).__name__}"
        for key in sorted(kept.keys() & own.keys())
        if kept[key].shape != own[key].shape
    ]
    if problems:
        raise PolyvidError(
            f"The checkpoint does not fit {type(model).__name__} ({len(problems)} differences):\n" + "\n".join(problems)
        )
    model.load_state_dict(kept, strict=False)
