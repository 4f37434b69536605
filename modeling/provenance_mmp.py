"""Which networks made the features of videos, as plain records that travel with features, models and indexes.

Features of another network mean nothing to a model, even where their width is the same. A record says which network
and how it was fed:

    {"id": "s3d_howto100m", "output": "pooler_output", "columns": 512, "revision": "...", "weights": "...",
     "fps": 30, "window": 30, "stride": 30, "scaling": {"shortest_edge": 224, "crop": 224}, "per": "second"}

Only `id` is always there; what is missing is not known and fits anything. `weights` is what `digest_of_weights` says,
and counts for more than names: a network has the same weights under any name. The type of number that a network
computed with is left out, because it changes features only in their last digits.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import torch

from .errors_mmp import PolyvidError

logger = logging.getLogger(__name__)

Encoders = list[dict[str, Any]]
"""One record for each network, in the order in which their vectors are concatenated."""
INPUT = ("output", "columns", "fps", "window", "stride", "scaling", "per")
KEYS = ("id", "revision", "weights", *INPUT)


def checked_encoders(encoders: object, where: str) -> Encoders | None:
    """`encoders`, if it is None or a list of records.

    Args:
        where: of the records, for the error: `"video_encoders"`, a file.

    Raises:
        PolyvidError: if it is anything else.
    """
    if encoders is None:
        return None
    if not isinstance(encoders, list) or not encoders:
        raise PolyvidError(f"{where} must be a list with a record for each network, got {encoders!r}.")
    for number, record in enumerate(encoders):
        if not isinstance(record, dict) or not isinstance(record.get("id"), str) or not record["id"]:
            raise PolyvidError(f"{where}: record {number} names no network in its id: {record!r}.")
    return encoders


def digest_of_weights(tensors: Iterable[torch.Tensor]) -> str:
    """A number for the weights of a network that depends neither on their names and order nor on the file's format.

    Counters, such as how many batches a batch norm has seen, are left out.
    """
    digests = []
    for tensor in tensors:
        if tensor.is_floating_point():
            digest = hashlib.blake2b(str(tuple(tensor.shape)).encode(), digest_size=16)
            digest.update(tensor.detach().to("cpu", torch.float32).contiguous().flatten().numpy().data)
            digests.append(digest.digest())
    return hashlib.blake2b(b"".join(sorted(digests)), digest_size=16).hexdigest()


def shown_encoders(encoders: Sequence[Mapping[str, Any]], keys: Sequence[str] = ("columns",)) -> str:
    """The networks in words.

    >>> shown_encoders([{"id": "efficientnet-lite0", "columns": 1280}, {"id": "s3d", "columns": 512}])
    'efficientnet-lite0 (columns 1280) + s3d (columns 512)'
    """
    return " + ".join(
        record["id"] + (f" ({known})" if (known := ", ".join(_facts(record, keys))) else "") for record in encoders
    )


def _facts(record: Mapping[str, Any], keys: Sequence[str]) -> Iterable[str]:
    for key in keys:
        if key in record:
            value = record[key]
            if isinstance(value, dict):
                value = ", ".join(f"{name} {number}" for name, number in value.items())
            yield f"{key} {str(value)[:12] if key in ('weights', 'revision') else value}"


def differing_keys(left: Sequence[Mapping[str, Any]], right: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """In what two lists of records contradict each other; None if they do not.

    >>> differing_keys([{"id": "s3d", "window": 16}], [{"id": "s3d", "window": 30}])
    ['window']
    >>> differing_keys([{"id": "s3d", "window": 16}], [{"id": "s3d"}])
    """
    if len(left) != len(right):
        return ["columns"]
    found = {key for pair in zip(left, right, strict=True) for key in _differing(*pair)}
    return [key for key in KEYS if key in found] or None


def _differing(left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterable[str]:
    both = left.keys() & right.keys()
    if "weights" in both:
        names: tuple[str, ...] = ("weights",)
    else:
        names = ("id", "revision")
    return [key for key in (*names, *INPUT) if key in both and left[key] != right[key]]


def refuse_other_encoders(
    what: str,
    encoders: Sequence[Mapping[str, Any]] | None,
    expected_by: str,
    expected: Sequence[Mapping[str, Any]] | None,
    advice: str,
    allow: bool = False,
) -> None:
    """Checks that features come from the networks that they should come from.

    Where one side does not know, a warning says so once, and where `allow` is set, that they differ.

    Args:
        what: has the features: a folder, an index.
        encoders: made them; None if that was not recorded.
        expected_by: the model, or an index.
        expected: what it was made for; None if that was not recorded.
        advice: what to do.
        allow: warn only.

    Raises:
        PolyvidError: naming both, if they differ.
    """
    if encoders is None or expected is None:
        silent = what if encoders is None else expected_by
        warn_once(
            f"{silent} does not say which networks made its features: that {what} fits {expected_by} is not checked."
        )
        return
    if (keys := differing_keys(encoders, expected)) is None:
        return
    # Names, unless they agree; then what does not.
    shown = ["columns"] if "id" in keys or len(encoders) != len(expected) else keys
    if "weights" in keys and [e["id"] for e in encoders] != [e["id"] for e in expected]:
        shown = ["columns"]
    message = (
        f"{what} holds features of {shown_encoders(encoders, shown)}, but {expected_by} was made for features of "
        f"{shown_encoders(expected, shown)}"
    )
    if not allow:
        raise PolyvidError(f"{message}: {advice}")
    warn_once(f"{message}. This was allowed.")


@cache
def warn_once(message: str) -> None:
    """Warns, the first time in a process; as in transformers, whose import takes seconds that a search does without."""
    logger.warning(message)
