"""Pictures → clips, for datasets of drawings and photos. Needs the extra `open-data`.

A still is a clip of one frame, so that everything that reads videos reads stills too.
"""

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import av
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from polyvid.dataset_scripts.building import atomic_path
from polyvid.dataset_scripts.workers import end_with_parent
from polyvid.modeling.errors_mmp import PolyvidError

SIZE = 224  # pixels, square: what ImageNet networks expect
FRAME_RATE = 4  # frames per second
PIXELS_PER_INCH = 96  # of CSS, for drawings measured in points or millimetres

WORTH_A_PROCESS = 100  # pictures; a process takes two seconds to start

Source = TypeVar("Source")
Job = TypeVar("Job")


def write_clip(frames: Sequence[Image.Image], path: Path, preset: int = 4) -> None:
    """Encode frames of `SIZE` × `SIZE` as an AV1 mp4, 4:2:0, constant rate factor 36.

    Args:
        preset: of SVT-AV1, from 0 (slow, small files) to 13 (fast, large files).
    """
    os.environ.setdefault("SVT_LOG", "1")  # the encoder prints a banner for each clip otherwise
    options = {"crf": "36", "preset": str(preset), "svtav1-params": "lp=1"}
    with (
        same_scheduling(),
        atomic_path(path) as unfinished,
        av.open(str(unfinished), "w", format="mp4") as container,
    ):
        stream = container.add_stream("libsvtav1", rate=FRAME_RATE, options=options)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


@contextmanager
def same_scheduling() -> Iterator[None]:
    """Give the thread its scheduling back after an encoding.

    SVT-AV1 gives the calling thread, if root runs it, real-time priority for good. It then starves the machine, and so
    do its child processes, which inherit it.
    """
    if not hasattr(os, "sched_setscheduler"):  # only Linux has it
        yield
        return
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, parameters)


def draw_svg(svg: str | Path) -> Image.Image:
    """A drawing, given as text or as a file, in the middle of a white square: RGB, `SIZE` × `SIZE`.

    The machine's fonts are left out, so that the picture is the same everywhere.

    Raises:
        PolyvidError: if it cannot be drawn, or if there is nothing to see in it.
    """
    import resvg_py

    path, text = (str(svg), None) if isinstance(svg, Path) else (None, svg)
    try:
        png = resvg_py.svg_to_bytes(
            svg_string=text, svg_path=path, width=SIZE, height=SIZE, dpi=PIXELS_PER_INCH, skip_system_fonts=True
        )
    except (ValueError, OSError) as error:
        raise PolyvidError(f"it cannot be drawn: {' '.join(str(error).split())}") from None
    return _in_square(Image.open(io.BytesIO(bytes(png))))


def read_picture(path: Path) -> Image.Image:
    """A picture file in the middle of a white square: RGB, `SIZE` × `SIZE`.

    Raises:
        PolyvidError: if it cannot be read, or if there is nothing to see in it.
    """
    try:
        with Image.open(path) as image:
            return _in_square(image)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:  # SyntaxError: Pillow's word for a broken PNG
        raise PolyvidError(f"it cannot be read: {error}") from None


def write_stills(
    sources: Mapping[Path, Source], draw: Callable[[Source], Image.Image], label: str, workers: int | None = None
) -> int:
    """Draw all clips that are missing, in several processes.

    Args:
        sources: clip → what `draw` draws it from.
        draw: a function of a module, as it goes to other processes.
        label: of the progress bar.
        workers: number of processes. Default: the number of cores.

    Returns:
        The number of clips drawn; those that are there already are kept.

    Raises:
        PolyvidError: if pictures cannot be drawn: how many, and which is the first. All others are written.
    """
    missing = [(path, source) for path, source in sources.items() if not path.exists()]
    processes = min(workers or _cores(), 1 + len(missing) // WORTH_A_PROCESS)
    jobs = _run(partial(_write_still, draw), missing, processes)
    failures = [*filter(None, tqdm(jobs, desc=label, unit=" clips", total=len(missing), disable=not missing))]
    if failures:
        raise PolyvidError(f"{label}: {len(failures)} of {len(sources)} pictures failed, the first is {failures[0]}.")
    return len(missing)


def _run(write: Callable[[Job], str | None], jobs: Sequence[Job], processes: int) -> Iterator[str | None]:
    if processes == 1:
        yield from map(write, jobs)
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=end_with_parent)
    try:
        yield from pool.map(write, jobs, chunksize=10)
    finally:
        pool.shutdown(cancel_futures=True)  # a command that is interrupted does not draw all the others first


def _write_still(draw: Callable[[Source], Image.Image], job: tuple[Path, Source]) -> str | None:
    """Returns which picture cannot be drawn and why."""
    path, source = job
    try:
        frame = draw(source)
    except PolyvidError as error:
        return f"{path.stem} ({str(error).rstrip('.')})"
    write_clip([frame], path, preset=8)  # a quarter of the time of preset 4, and files a quarter larger
    return None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_square(image: Image.Image) -> Image.Image:
    """The picture with its own proportions, as large as `SIZE` × `SIZE` allows, on white; a white one on grey.

    Raises:
        PolyvidError: if there is nothing to see in it.
    """
    image = image.convert("RGBA")
    scale = SIZE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)
    for background in ("white", "grey"):
        square = Image.new("RGBA", (SIZE, SIZE), background)
        square.alpha_composite(image, ((SIZE - width) // 2, (SIZE - height) // 2))
        picture = square.convert("RGB")
        if picture.getcolors(maxcolors=1) is None:  # more than one color
            return picture
    raise PolyvidError("there is nothing to see in it")
