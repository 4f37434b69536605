"""How a [`VideoIndex`] answers: hits by corrected scores, of moments that do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from .errors_mmp import PolyvidError
from .index_corrections_mmp import Corrections, HubCorrected
from .index_engines_mmp import Engine
from .index_rows_mmp import Condition
from .moments_mmp import LongerPreferred, nearest_moments

if TYPE_CHECKING:
    from .processing_mmp import MMPProcessor

QUERIES_AT_ONCE = 1024


def find(
    engine: Engine,
    queries: torch.Tensor,
    k: int,
    filters: Sequence[Condition],
    *,
    corrections: Corrections,
    moment_seconds: Sequence[int],
    one_per_video: bool,
    max_overlap: float,
) -> list[list[dict[str, Any]]]:
    """The hits of each query, best first.

    Args:
        engine: finds by cosine.
        queries: (queries, embed_dim), float32, of length 1.
        k, filters: as for `Engine.nearest`.
        corrections: the numbers of hubs are subtracted where there are some.
        moment_seconds: the lengths of the windows; of several, longer ones are preferred by a little.
        one_per_video, max_overlap: as for `VideoIndex.search`.
    """
    scored: Any = engine
    if corrections.hubs is not None and engine.rows is not None:
        scored = HubCorrected(scored, corrections.hubs, engine.rows.video_ids)
    if len(moment_seconds) > 1:
        scored = LongerPreferred(scored, moment_seconds)
    are_different = "start" in engine.kinds and (one_per_video or max_overlap < 1)
    found = []
    for part in queries.split(QUERIES_AT_ONCE):
        if are_different:
            found += nearest_moments(scored, part, k, filters, one_per_video, max_overlap)
        else:
            found += scored.nearest(part, k, filters)
    return found


def check_readable(texts: Sequence[str], processor: MMPProcessor) -> None:
    """
    Raises:
        PolyvidError: for a text of which the tokenizer knows nothing: all such texts would find the same.
    """
    tokenizer = processor.tokenizer
    blank = set(tokenizer(" ", add_special_tokens=False)["input_ids"])  # SentencePiece has a token for a space
    for text in texts:
        tokens = set(tokenizer(text, add_special_tokens=False)["input_ids"])
        if tokens - blank == {tokenizer.unk_token_id}:
            shown = text if len(text) <= 40 else f"{text[:39]}…"
            raise PolyvidError(f"The model cannot read {shown!r}: it does not know this script or these words.")
