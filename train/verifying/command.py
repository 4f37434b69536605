"""`polyvid verify`: says which files are whole, and which are damaged."""

import os
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.verifying.folders import verify_path

LISTED = 5  # damaged files that the last line names


def verify(
    path: Annotated[Path, typer.Argument(help="A file, or a folder: dataset, features, index, run or model.")],
) -> None:
    """Read files again and compare them with their checksums: which are whole, and which are damaged.

    Prints a line for each file: whole, no checksum (it can be read, but a changed byte could go unnoticed), or damaged,
    with what is. The exit code is 1 if anything is damaged or missing. Other commands may go on meanwhile.
    """
    states: Counter[str] = Counter()
    damaged: list[Path] = []
    size = 0
    with tqdm(desc="verify", unit="B", unit_scale=True, leave=False) as progress:
        for finding in verify_path(path):
            with progress.external_write_mode():
                print(f"{finding.state:<11}  {_shown(finding.path)}  {finding.note}", flush=True)
            states[finding.state] += 1
            if finding.state == "damaged":
                damaged.append(finding.path)
            if finding.path.is_file():
                size += finding.path.stat().st_size
                progress.update(finding.path.stat().st_size)
    if not states:
        raise PolyvidError(f"{path} holds nothing that can be verified: no dataset, features, index, run or model.")
    print(f"{sum(states.values()):,} files, {size / 1e9:,.2f} GB: {_counted(states)}")
    if damaged:
        more = f" and {len(damaged) - LISTED:,} more" if len(damaged) > LISTED else ""
        raise PolyvidError(
            f"{len(damaged):,} of {sum(states.values()):,} files are damaged or missing: "
            f"{', '.join(map(_shown, damaged[:LISTED]))}{more}. Copy them again, or delete them and make them again."
        )


def _shown(path: Path) -> str:
    """A path as text that can be printed, though its name may not be UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _counted(states: Counter[str]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in sorted(states.items(), reverse=True))
