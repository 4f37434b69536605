"""Which clips of Fluent-Emoji-9 are loops, and look different when they are played backwards: `clips.csv`.

    python -m polyvid.dataset_scripts.emoji_motion.measure

Every second frame of each animation is compared in grey at 28 × 28 pixels:

- `alike_backwards`: how much the loop looks like itself played backwards. The correlation of the frames, less their
  mean, with those in reverse order; the highest over all frames that the reversed loop may begin with.
- `seam`: the change from the last frame to the first, relative to the largest change from one frame to the next. At
  most 1: the last frame leads back to the first, so that no jump gives the direction away.
"""

import csv
from pathlib import Path
from typing import Annotated

import av
import numpy as np
import typer
from tqdm import tqdm

from polyvid.dataset_scripts.building import atomic_path
from polyvid.dataset_scripts.emoji_motion.emoji_motion import LOOP
from polyvid.dataset_scripts.fluent_emoji_9 import build

HERE = Path(__file__).parent
GRID = 28  # pixels a side, 8 × 8 of the clip's own each


def alike_backwards(frames: np.ndarray) -> float:
    """`frames` (frames, height, width) are once around the loop.

    >>> swing, turn = np.array([0, 1, 2, 1]), np.array([0, 1, 2, 5])
    >>> [round(alike_backwards(clip.reshape(4, 1, 1)), 2) for clip in (swing, turn)]
    [1.0, 0.71]
    """
    moving = frames - frames.mean(0)
    shifted = (np.roll(moving[::-1], shift, axis=0) for shift in range(len(frames)))
    return max(float((moving * other).sum()) for other in shifted) / max(float((moving**2).sum()), 1e-9)


def seam(frames: np.ndarray) -> float:
    """`frames` as for `alike_backwards`.

    >>> float(seam(np.array([0.0, 1.0, 3.0]).reshape(3, 1, 1)))
    1.5
    """
    *changes, last = (
        float(((np.roll(frames, -1, axis=0)[i] - frames[i]) ** 2).mean() ** 0.5) for i in range(len(frames))
    )
    return last / max(*changes, 1e-9)


def read_loop(clip: Path) -> np.ndarray | None:
    """Every second frame of a clip in grey: (frames, `GRID`, `GRID`). None for a still."""
    with av.open(str(clip)) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    if len(frames) < build.FRAMES:
        return None
    grey = np.stack([frames[index] for index in LOOP]).astype(float)
    return grey.reshape(len(LOOP), GRID, -1, GRID, grey.shape[2] // GRID).mean((2, 4))


def main(output: Annotated[Path, typer.Option(help="Table to write.")] = HERE / "clips.csv") -> None:
    """Measure every animation of Fluent-Emoji-9."""
    with atomic_path(output) as path, open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video_id", "alike_backwards", "seam"])
        for clip in tqdm(sorted((build.HERE / "clips").glob("*.mp4")), unit=" clips"):
            if (loop := read_loop(clip)) is not None:
                writer.writerow([clip.stem, f"{alike_backwards(loop):.3f}", f"{seam(loop):.3f}"])


if __name__ == "__main__":
    typer.run(main)
