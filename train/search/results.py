"""The hits of a search, as a terminal shows them: `mm:ss–mm:ss`, paths, JSON."""

import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyvid.train.errors import visible

LONGEST_QUERY = 80
OWN_METADATA = ("bytes", "modified", "blake2b", "seconds")
"""What the index of a folder keeps of each file: for JSON and filters, not for the table."""


def shown_query(query: str) -> str:
    """One line of a query, cut where it is long."""
    line = "".join(" " if unicodedata.category(character) in ("Cc", "Zl", "Zp") else character for character in query)
    return line if len(line) <= LONGEST_QUERY else f"{line[: LONGEST_QUERY - 1]}…"


def clock(seconds: float) -> str:
    """
    >>> [clock(8), clock(75), clock(3675)]
    ['00:08', '01:15', '1:01:15']
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def moment(hit: Mapping[str, Any]) -> str:
    """`mm:ss–mm:ss`; "" of a whole video."""
    return f"{clock(hit['start'])}–{clock(hit['end'])}" if "start" in hit else ""


def table(query: str, hits: list[dict[str, Any]]) -> str:
    """A query and its hits: rank, cosine, moment, and the path or id. A hit with a `path` is the user's own file."""
    lines = [shown_query(query)] + ([] if hits else ["  nothing found"])
    for rank, hit in enumerate(hits, 1):
        known = {name: value for name, value in hit.get("metadata", {}).items() if value is not None}
        shown = {name: value for name, value in known.items() if "path" not in hit or name not in OWN_METADATA}
        about = visible("".join(f"  {name}={value}" for name, value in shown.items()))
        when = f"  {moment(hit)}" if "start" in hit else ""
        place = f"{when}  {visible(hit['path'])}" if "path" in hit else f"  {visible(hit['video_id'])}{when}"
        lines.append(f"{rank:4}  {hit['score']:.3f}{place}{about}")
    return "\n".join(lines) + "\n"


def as_json(query: str, hits: list[dict[str, Any]]) -> str:
    """One line."""
    return json.dumps({"query": query, "hits": hits}, ensure_ascii=False)


def with_paths(hits: list[dict[str, Any]], files: Mapping[str, Path]) -> list[dict[str, Any]]:
    """The hits with the `path` of each video."""
    return [hit | {"path": str(files[hit["video_id"]])} for hit in hits]
