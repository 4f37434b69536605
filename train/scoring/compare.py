"""`polyvid compare`: whether two runs differ by more than chance."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from polyvid.dataset_scripts.schema import language_name
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.scoring.evaluation import TEXT_TO_VIDEO
from polyvid.train.scoring.results import read_ranks
from polyvid.train.scoring.significance import paired_test


def compare(
    first: Annotated[Path, typer.Argument(help="Folder of results made by polyvid evaluate.")],
    second: Annotated[Path, typer.Argument(help="Another folder of results, on the same benchmark.")],
    score: Annotated[str, typer.Option(help="R@1, R@5, R@10, MRR, nDCG@10 or MnR.")] = "R@1",
) -> None:
    """Test whether two runs differ, language by language: paired randomisation over videos, two-sided."""
    runs = [read_ranks(folder / "ranks.npz") for folder in (first, second)]
    print(f"| text to video | {first} | {second} | difference | p |\n|---|---:|---:|---:|---:|")
    for language, ranks in runs[0][TEXT_TO_VIDEO].items():
        other = runs[1][TEXT_TO_VIDEO].get(language)
        if other is None:
            continue
        if not np.array_equal(ranks.video_ids, other.video_ids):
            raise PolyvidError(f"{first} and {second} do not have the same {language} queries: nothing to compare.")
        difference, p = paired_test(ranks.ranks, other.ranks, score, ranks.video_ids)
        cells = [f"{run.scores()[score]:.2f}" for run in (ranks, other)] + [f"{difference:+.2f}", f"{p:.4f}"]
        print(f"| {language_name(language)} | {' | '.join(cells)} |")
