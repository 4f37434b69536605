"""The file of a [`VideoIndex`]: a safetensors file that says what made it, with a checksum for each tensor."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .errors_mmp import PolyvidError

logger = logging.getLogger(__name__)

FORMAT = "mmp_video_index"
"""The entry of the safetensors metadata. There is only one: several would be written in any order, and the same index
should always be the same bytes."""
FACTS = {"engine": str, "options": dict, "model": str}
"""What every file says of itself, with the type of each."""
LATER_FACTS = {
    "weights": str,
    "moment_seconds": list,
    "video_encoders": list,
    "other_encoders": bool,
    "corrections": dict,
    "digests": dict,
    "digest": str,
}
"""What older versions did not write. A file with anything else was written by a newer one."""
CHUNK_BYTES = 1 << 20


def write_index_file(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]
) -> None:
    """Writes an index, which appears whole or not at all.

    Args:
        path: of the file; its folder is created.
        tensors: what the file holds.
        about: `{"engine": its name, "options": of the engine, "model": that made the index}`, and where known
            `"weights"`, a digest of that model, `"moment_seconds"`, the lengths of the windows, `"video_encoders"`,
            records of the networks behind the features, `"other_encoders"`, whether the model was made for others, and
            `"corrections"`, of scores.

    Raises:
        OSError: if there is no room, or it cannot be written for another reason. A file of this name stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.incomplete")
    about = {**about, "digests": {name: _digest_of(tensor) for name, tensor in sorted(tensors.items())}}
    about["digest"] = _digest_of_facts(about)
    try:
        save_file(dict(tensors), part, {FORMAT: json.dumps(about, ensure_ascii=False)})
        part.chmod(0o644)  # safetensors writes it for its owner alone
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"Could not write {path} ({error}). Nothing was left there; free some space and save again."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def read_index_file(
    path: str | os.PathLike[str], verify: bool = True
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What `write_index_file` wrote: the tensors, mapped from the file, and `about`.

    Args:
        path: of the file.
        verify: compare all of it with its checksums first. A file that an older version wrote has none: a warning.

    Raises:
        PolyvidError: the reason why this is not an index, or a damaged one.
        OSError: the file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            if FORMAT not in metadata:
                raise PolyvidError("it holds other tensors")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}
        about = _facts_of(metadata[FORMAT])
    except (SafetensorError, KeyError) as error:
        raise PolyvidError(str(error)) from error
    if "digests" not in about:
        logger.warning(
            f"{os.fspath(path)!r} was written by an older version and has no checksums, so damage would go unnoticed. "
            "Load it and save it again to add them."
        )
    elif verify:
        _verify(path, tensors, about)
    return tensors, {name: about[name] for name in about if not name.startswith("digest")}


def _facts_of(text: str) -> dict[str, Any]:
    """The entry of the metadata, whose fields are those that this or an older version writes."""
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict) or not about.keys() >= FACTS.keys() or ("digests" in about) != ("digest" in about):
        raise PolyvidError("its description of itself is damaged")
    known = FACTS | LATER_FACTS
    if not all(isinstance(about[name], known.get(name, object)) for name in about):
        raise PolyvidError("its description of itself is damaged")
    if unknown := sorted(about.keys() - known.keys()):
        raise PolyvidError(f"a newer version of polyvid wrote it, with {unknown[0]!r}: upgrade, or it is damaged")
    return about


def _verify(path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
    """Reads the file rather than the tensors: what is mapped would count as this process's memory once it was read."""
    digests = about["digests"]
    if about["digest"] != _digest_of_facts(about) or digests.keys() != tensors.keys():
        raise PolyvidError("its header does not match its checksum; it is damaged: copy it or build it again")
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        for name, tensor in tensors.items():
            start, end = header[name]["data_offsets"]
            file.seek(8 + size + start)
            if _digest_of(tensor, file, end - start) != digests[name]:
                raise PolyvidError(f"{name!r} does not match its checksum; it is damaged: copy it or build it again")


def _digest_of(tensor: torch.Tensor, file: BufferedReader | None = None, length: int = 0) -> str:
    """Of a tensor's type, shape and bytes, which are read from `file` if it is given."""
    digest = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=16)
    if file is None:
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    else:
        buffer = memoryview(bytearray(min(CHUNK_BYTES, length)))
        while length > 0 and (read := file.readinto(buffer[:length])):
            digest.update(buffer[:read])
            length -= read
    return digest.hexdigest()


def _digest_of_facts(about: Mapping[str, Any]) -> str:
    """Of everything else that the entry says."""
    facts = json.dumps({name: about[name] for name in about if name != "digest"}, sort_keys=True)
    return hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()
