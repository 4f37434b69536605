"""Asks the Hub once, for seconds, before libraries ask it for what a user named: they try for minutes."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

from polyvid.modeling.paths_mmp import check_local_path, is_local_path

SECONDS = 5.0
"""For which an answer is waited for."""


def check_source(name: str, what: str, kind: Literal["model", "dataset"] = "model") -> None:
    """`check_local_path`; and where `name` is an id on the Hub, of which nothing is in the cache, that the Hub answers.

    Args:
        name: a path or a Hub id.
        what: the kind of thing expected, for the error.
        kind: of the repository.

    Raises:
        FileNotFoundError: if `name` is a path and nothing exists there.
        ConnectionError: if the Hub cannot be reached, or must not be asked (HF_HUB_OFFLINE).
    """
    check_local_path(name, what)
    if is_local_path(name) or any(folder.is_dir() for folder in _cached(name, kind)):
        return
    here = f"There is no {what} at {name!r} in {Path.cwd()}, nor in the cache of the Hub"
    endpoint = HfApi().endpoint
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError(f"{here}, and HF_HUB_OFFLINE is set: check the name, or unset it.")
    try:
        _ask(endpoint)
    except HTTPError as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConnectionError(
            f"{here}, and {endpoint} cannot be reached ({reason}): check the name, the network and HF_ENDPOINT."
        ) from None


def _cached(name: str, kind: str) -> Iterator[Path]:
    """Where the libraries keep what came from the Hub under this name."""
    yield Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
    if kind == "dataset":
        from datasets import config  # takes seconds

        yield Path(config.HF_DATASETS_CACHE) / name.replace("/", "___")  # as load_dataset writes it down


@lru_cache
def _ask(endpoint: str) -> None:
    """Any answer will do. Remembered, unless there was none."""
    get_session().head(endpoint, timeout=SECONDS)
