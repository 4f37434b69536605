"""One HTML page with the hits of a search: thumbnails, and players that start at the moment. It needs no other file
but the videos."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from polyvid.modeling.video_reading_mmp import open_container
from polyvid.train.search.results import moment, shown_query

THUMBNAIL_WIDTH = 320
TEMPLATE = Path(__file__).parent / "page.html"


def write_page(path: Path, results: Sequence[tuple[str, list[dict[str, Any]]]]) -> None:
    """Writes the page, which appears whole or not at all.

    Args:
        path: of the page.
        results: each query with its hits, which have a `path`.

    Raises:
        OSError: if it cannot be written.
    """
    from polyvid.dataset_scripts.building import atomic_path  # it imports datasets, which takes seconds

    answers = [{"query": shown_query(query), "hits": [_entry(hit) for hit in hits]} for query, hits in results]
    page = Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8")).render(answers=answers)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _entry(hit: dict[str, Any]) -> dict[str, Any]:
    path, start, end = Path(hit["path"]), hit.get("start", 0), hit.get("end")
    return {
        "path": hit["path"],
        "score": f"{hit['score']:.3f}",
        "moment": moment(hit),
        # The fragment makes browsers start, and stop, at these seconds.
        "address": f"{path.resolve().as_uri()}#t={start}" + (f",{end}" if end is not None else ""),
        "picture": thumbnail(path, (start + end) / 2 if end is not None else 0.0),
    }


def thumbnail(path: Path, second: float) -> str:
    """A frame near this second, as the address of a JPEG in itself; "" if there is none."""
    import av

    try:
        with open_container(path) as container:
            stream = container.streams.video[0]
            origin = (stream.start_time or 0) * stream.time_base if stream.time_base else 0
            if second > 0:
                container.seek(int((second + float(origin)) * av.time_base))
            frame = None
            for frame in container.decode(stream):
                if frame.time is None or frame.time - float(origin) >= second - 0.1:
                    break
            if frame is None:
                return ""
            image = frame.to_image().rotate(round(frame.rotation), expand=True)
    except (av.error.FFmpegError, OSError, IndexError, ValueError):
        return ""  # it could be read when it was indexed: the page is worth showing without this picture
    image.thumbnail((THUMBNAIL_WIDTH, THUMBNAIL_WIDTH))
    written = io.BytesIO()
    image.convert("RGB").save(written, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"
