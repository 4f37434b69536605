"""Where a [`VideoIndex`] is kept: what it is made of goes into one file, or into a repository of the Hub, and back."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .errors_mmp import PolyvidError
from .index_card_mmp import FILE
from .index_corrections_mmp import Corrections
from .index_engines_mmp import Engine, engine_class
from .index_file_mmp import read_index_file, write_index_file
from .index_maker_mmp import Maker
from .moments_mmp import window_lengths
from .paths_mmp import is_local_path

if TYPE_CHECKING:
    from .modeling_mmp import MMPModel
    from .processing_mmp import MMPProcessor


class Parts(NamedTuple):
    """What an index is made of.

    Attributes:
        engine: holds the vectors and ids, or knows the database that does.
        maker: the model that made it.
        moment_seconds: the lengths of its windows, from the shortest; none for whole videos, and in old files.
        corrections: of scores.
    """

    engine: Engine
    maker: Maker
    moment_seconds: tuple[int, ...]
    corrections: Corrections


def write_parts(path: str | os.PathLike[str], parts: Parts, named_from: Path) -> None:
    """Writes an index, which appears whole or not at all.

    Args:
        path: of the file.
        parts: of the index.
        named_from: the folder where the file will be: the path of its model is relative to it.

    Raises:
        OSError: if it cannot be written. A file of this name stays as it was.
    """
    engine, maker, moment_seconds, corrections = parts
    about: dict[str, Any] = {"engine": engine.name, "options": engine.options}
    about |= maker.facts(named_from) | {"moment_seconds": list(moment_seconds)}
    probe = {} if maker.probe is None else {"probe": maker.probe}
    tensors = corrections.tensors()
    if tensors:
        about["corrections"] = corrections.facts()
    write_index_file(path, {**engine.tensors(), **probe, **tensors}, about)


def read_parts(
    path: str | os.PathLike[str],
    model: MMPModel | str | None,
    processor: MMPProcessor | None,
    revision: str | None,
    verify: bool,
) -> Parts:
    """What `write_parts` or `push_parts` wrote; arguments and errors are those of `VideoIndex.load`."""
    name, file = os.fspath(path), Path(path)
    if not is_local_path(path):
        from huggingface_hub import hf_hub_download  # it imports clients of the network

        file = Path(hf_hub_download(name, FILE, repo_type="dataset", revision=revision))
    try:
        tensors, about = read_index_file(file, verify)
        found = engine_class(about["engine"], without="exact" if "video_embeds" in tensors else None)
        engine = found.from_tensors(tensors, about["options"])
        probe = tensors.get("probe")
        if probe is not None and (probe.dtype, probe.shape) != (torch.float32, (engine.embed_dim,)):
            raise PolyvidError(f"its probe is {probe.dtype} {tuple(probe.shape)}")
        lengths = window_lengths(about.get("moment_seconds") or None)
        facts = about.get("corrections", {})
        if "beta" in facts and engine.rows is None:
            raise PolyvidError("it has numbers for videos that are elsewhere")
        videos = len(engine.rows.video_ids) if engine.rows is not None else 0
        corrections = Corrections.from_file(tensors, facts, videos, engine.embed_dim)
        maker = Maker.from_facts(about, probe, file.parent, model, processor)
    except (OSError, ValueError) as error:  # an engine's PolyvidError may come from another copy of this code
        raise PolyvidError(f"{name!r} is not a video index that can be read: {error}") from error
    width = getattr(getattr(model, "config", None), "embed_dim", engine.embed_dim)
    if width != engine.embed_dim:
        raise PolyvidError(
            f"{name!r} was made by another model: its embeddings are ({len(engine)}, {engine.embed_dim}), "
            f"the model's are {width} wide."
        )
    return Parts(engine, maker, lengths, corrections)


def push_parts(
    repo_id: str, parts: Parts, card: str, private: bool | None, revision: str | None, token: str | None
) -> str:
    """Uploads an index with its card to a dataset repository, and returns the commit's URL.

    Raises:
        OSError: what the Hub answers, for example to a wrong token.
    """
    from huggingface_hub import HfApi  # it imports clients of the network

    api = HfApi(token=token)
    api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(repo_id, repo_type="dataset", branch=revision, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        write_parts(Path(folder, FILE), parts, Path(parts.maker.name).parent)  # paths of this machine stay here
        Path(folder, "README.md").write_text(card, encoding="utf-8")
        message = f"Index of {len(parts.engine)} rows"
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, repo_type="dataset", revision=revision, commit_message=message
        )
    return commit.commit_url
