"""How the rows of a [`VideoIndex`] come about: videos are embedded, named, and joined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from .errors_mmp import PolyvidError
from .index_engines_mmp import ExactEngine
from .index_maker_mmp import Maker
from .index_rows_mmp import Texts, VideoRows
from .index_vectors_mmp import StoredVectors
from .moments_mmp import windows

Span = tuple[int, int]
"""First second and end of a moment."""


class Embedded(NamedTuple):
    """Videos as a model sees them.

    Attributes:
        embeds: (rows, embed_dim).
        names: of the videos.
        spans: for each video those of its rows; None for whole videos.
    """

    embeds: torch.Tensor
    names: list[str]
    spans: list[list[Span]] | None


def embed(
    maker: Maker, features: Mapping[str, Any] | Sequence[Any], lengths: tuple[int, ...], progress: bool
) -> Embedded:
    """Embeds videos, or windows of these lengths; arguments and errors are those of `VideoIndex.build`."""
    from .video_sources_mmp import is_video  # it imports PyAV

    model, processor = maker.towers()
    named = features if isinstance(features, Mapping) else dict(enumerate(features))
    names, videos = unique(named), list(named.values())
    if any(map(is_video, videos)):
        videos = model.to_features(videos, processor, names)
    spans = [windows(max(1, len(video)), lengths) for video in videos]
    clips = [video[start:end] for video, of in zip(videos, spans, strict=True) for start, end in of]
    owners = [name for name, of in zip(names, spans, strict=True) for _ in of]
    embeds = model.encode_videos(clips, processor, names=owners, progress=progress)
    return Embedded(embeds, names, spans if lengths else None)


def exact_engine(
    video_embeds: torch.Tensor,
    video_ids: Iterable[str],
    spans: Sequence[Sequence[Span]] | None,
    metadata: Mapping[str, Mapping[str, object]] | None,
    storage: str,
) -> ExactEngine:
    """The engine that holds these videos; arguments and errors are those of `VideoIndex`."""
    names = unique(video_ids)
    counts = [1] * len(names) if spans is None else [len(moments) for moments in spans]
    if video_embeds.ndim != 2 or len(counts) != len(names) or len(video_embeds) != sum(counts):
        raise PolyvidError(f"{len(names)} video ids do not fit embeddings {tuple(video_embeds.shape)}.")
    if not torch.isfinite(video_embeds).all():
        row = int((~torch.isfinite(video_embeds)).any(dim=-1).nonzero()[0])
        raise PolyvidError(f"Row {row} of the embeddings holds NaN or infinity.")
    rows = VideoRows(Texts.of(names), {})
    if spans is not None:
        videos = torch.arange(len(names), dtype=torch.int32).repeat_interleave(torch.tensor(counts))
        rows = VideoRows(rows.video_ids, {}, videos, torch.cat([torch.tensor(s, dtype=torch.int32) for s in spans]))
    if metadata:
        rows = rows.with_metadata(metadata)
    return ExactEngine(StoredVectors.of(video_embeds, storage), rows)


def joined(
    stored: Sequence[tuple[StoredVectors, VideoRows]], metadata: Mapping[str, Mapping[str, object]] | None
) -> ExactEngine:
    """One engine of vectors and rows of several; their metadata is dropped.

    Raises:
        PolyvidError: for a video that is in two of them.
    """
    vectors, rows = zip(*stored, strict=True)
    whole = VideoRows.cat(rows)
    unique(whole.video_ids)
    return ExactEngine(StoredVectors.cat(vectors), whole.with_metadata(metadata) if metadata else whole)


def unique(video_ids: Iterable[object]) -> list[str]:
    """
    Raises:
        PolyvidError: if there is no video, or an id is repeated.
    """
    names = [str(video_id) for video_id in video_ids]
    if not names:
        raise PolyvidError("The collection of videos is empty.")
    if len(set(names)) < len(names):
        repeated = next(name for name, count in Counter(names).items() if count > 1)
        raise PolyvidError(f"Video id {repeated!r} appears twice in the collection.")
    return names
