"""What a [`VideoIndex`] keeps to correct scores at search time: a number for each video, a vector for each language."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from .errors_mmp import PolyvidError
from .hubness_mmp import HubNumbers
from .index_engines_mmp import Engine
from .index_rows_mmp import Condition, VideoRows
from .index_vectors_mmp import StoredVectors

TEXTS_AT_ONCE = 32
ROWS_AT_ONCE = 1 << 16
FIRST_HITS = 64


@dataclass(frozen=True)
class Corrections:
    """Of an index, see `hubness_mmp`. Either part may be missing.

    Attributes:
        hubs: of the videos in the order of the index's `video_ids`. A video of several moments counts by the best of
            them, and all of them get its number.
        offsets: language → (embed_dim,).
        about: what is told of them: the source of the texts.
    """

    hubs: HubNumbers | None = None
    offsets: Mapping[str, torch.Tensor] | None = None
    about: str = ""

    def tensors(self) -> dict[str, torch.Tensor]:
        """What the file of the index holds."""
        found = {}
        if self.hubs is not None:
            found = {"hubness": self.hubs.numbers.float(), "hubness.nearest": self.hubs.nearest.to(torch.uint8)}
        if self.offsets:
            found["offsets"] = torch.stack([self.offsets[language] for language in sorted(self.offsets)]).float()
        return found

    def facts(self) -> dict[str, Any]:
        """What the file says of them; can be written as JSON."""
        facts: dict[str, Any] = {"about": self.about}
        if self.hubs is not None:
            facts |= {"beta": self.hubs.beta, "gated": self.hubs.gated}
        return facts | ({"languages": sorted(self.offsets)} if self.offsets else {})

    @classmethod
    def from_file(
        cls, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any], videos: int, embed_dim: int
    ) -> Corrections:
        """
        Raises:
            PolyvidError: for tensors that do not fit the index or its facts, and for numbers that are not finite.
        """
        hubs, offsets = None, None
        if "beta" in facts:
            numbers, nearest = tensors.get("hubness"), tensors.get("hubness.nearest")
            _check("hubness", numbers, torch.float32, (videos,))
            _check("hubness.nearest", nearest, torch.uint8, (videos,))
            assert numbers is not None and nearest is not None
            beta, gated = facts["beta"], facts.get("gated")
            if not isinstance(beta, int | float) or not 0 < beta < float("inf") or not isinstance(gated, bool):
                raise PolyvidError("its description of its corrections is damaged")
            hubs = HubNumbers(numbers, nearest.bool(), float(beta), gated)
        if "languages" in facts:
            languages = facts["languages"]
            if not isinstance(languages, list) or not all(isinstance(name, str) for name in languages):
                raise PolyvidError("its description of its corrections is damaged")
            rows = tensors.get("offsets")
            _check("offsets", rows, torch.float32, (len(languages), embed_dim))
            assert rows is not None
            offsets = dict(zip(languages, rows, strict=True))
        return cls(hubs, offsets, str(facts.get("about", "")))

    def check_language(self, language: str) -> None:
        """
        Raises:
            PolyvidError: for a language of which there is no offset.
        """
        offsets = self.offsets or {}
        if language not in offsets:
            known = " ".join(sorted(offsets)) or "no language"
            raise PolyvidError(f"This index has no offset of {language!r}; it has those of {known}.")

    def moved(self, embeds: torch.Tensor, language: str) -> torch.Tensor:
        """Unit embeddings of texts, (texts, embed_dim), less the offset of their language where there is one."""
        offset = (self.offsets or {}).get(language)
        unit = F.normalize(embeds.float(), dim=-1)
        return unit if offset is None else F.normalize(unit - offset, dim=-1)

    def of_videos(self, positions: torch.Tensor) -> Corrections:
        """Those of some videos: (kept,) int64, where these were in the order of `video_ids`."""
        if self.hubs is None:
            return self
        hubs = self.hubs
        kept = HubNumbers(hubs.numbers[positions], hubs.nearest[positions], hubs.beta, hubs.gated)
        return Corrections(kept, self.offsets, self.about)


def _check(name: str, tensor: torch.Tensor | None, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor is None or (tensor.dtype, tuple(tensor.shape)) != (dtype, shape):
        found = "missing" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
        raise PolyvidError(f"{name!r} is {found}")
    if not tensor.isfinite().all():
        raise PolyvidError(f"{name!r} holds NaN or infinity")


def hubs_of(vectors: StoredVectors, rows: VideoRows, bank: torch.Tensor, beta: float, gated: bool) -> HubNumbers:
    """The numbers of the videos of an index, by embeddings of texts (texts, embed_dim).

    Raises:
        ValueError: for no text, or a beta that is not positive.
    """
    videos = len(rows.video_ids)

    def cosines() -> Iterator[torch.Tensor]:
        for texts in F.normalize(bank.float(), dim=-1).split(TEXTS_AT_ONCE):
            parts = [texts @ vectors[start : start + ROWS_AT_ONCE].T for start in range(0, len(vectors), ROWS_AT_ONCE)]
            similarity = torch.cat(parts, dim=1)  # (texts, rows)
            if rows.videos is not None:  # the best moment of each video
                best = similarity.new_full((len(texts), videos), -torch.inf)
                similarity = best.scatter_reduce(1, rows.videos.long().expand_as(similarity), similarity, "amax")
            yield similarity

    return HubNumbers.from_cosines(cosines(), videos, beta, gated)


def nearest_rescored(
    engine: Engine,
    queries: torch.Tensor,
    k: int,
    filters: Sequence[Condition],
    rescore: Callable[[list[dict[str, Any]]], list[dict[str, Any]] | None],
    gain: float,
) -> list[list[dict[str, Any]]]:
    """The hits of each query by other scores than the engine's, exactly as if all of its rows had been scored.

    A row that was not among the hits has at most the score of the last of them, and `gain`: when `k` hits are above
    that, they are the best of all rows. Else the engine is asked for more.

    Args:
        engine, queries, k, filters: as for `Engine.nearest`.
        rescore: hits, best first, with the scores they shall have; None leaves those of a query as they are.
        gain: what a row can gain by that at most.
    """
    found: list[list[dict[str, Any]]] = [[] for _ in queries]
    short, wanted = list(range(len(queries))), max(k, FIRST_HITS)
    while short:
        still_short = []
        for query, hits in zip(short, engine.nearest(queries[short], wanted, filters), strict=True):
            rescored = rescore(hits)
            if rescored is None:
                found[query] = hits[:k]
                continue
            rescored.sort(key=lambda hit: -hit["score"])
            found[query] = rescored[:k]
            if len(hits) == wanted and rescored[min(k, len(hits)) - 1]["score"] < hits[-1]["score"] + gain:
                still_short.append(query)
        short, wanted = still_short, 4 * wanted
    return found


class HubCorrected:
    """An engine whose hits have corrected scores, exactly as if all of its rows had been scored.

    Args:
        engine: finds by cosine.
        hubs, video_ids: the numbers of the videos, and their names.
    """

    def __init__(self, engine: Engine, hubs: HubNumbers, video_ids: Sequence[str]):
        self.engine, self.rows, self.gated = engine, engine.rows, hubs.gated
        self.numbers = dict(zip(video_ids, hubs.numbers.tolist(), strict=True))
        self.passing: Collection[str] = {
            name for name, near in zip(video_ids, hubs.nearest.tolist(), strict=True) if near
        }
        self.least = float(hubs.numbers.min())

    def nearest(self, queries: torch.Tensor, k: int, filters: Sequence[Condition]) -> list[list[dict[str, Any]]]:
        """The hits of each query, best first; as `Engine.nearest`."""

        def correct(hits: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
            if self.gated and (not hits or hits[0]["video_id"] not in self.passing):
                return None
            return [hit | {"score": hit["score"] - self.numbers[hit["video_id"]]} for hit in hits]

        return nearest_rescored(self.engine, queries, k, filters, correct, -self.least)
