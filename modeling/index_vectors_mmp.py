"""The vectors of a [`VideoIndex`]: how they are stored, scanned exactly, and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional as F

from .errors_mmp import PolyvidError

STORAGES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
BLOCK_BYTES = 4 << 20
"""Of float32 at a time: what is stored smaller is widened block by block, in the processor's cache."""


def check_storage(storage: str) -> None:
    if storage not in STORAGES:
        raise PolyvidError(f"Unknown storage {storage!r}: choose from {' '.join(STORAGES)}.")


class StoredVectors:
    """(rows, embed_dim) vectors of length 1, as float32, float16 or int8, in memory or mapped from a file.

    int8 has a scale for each row, by which the row's largest magnitude becomes 127. It takes a quarter of float32, and
    cosines differ by less than 0.01 (measured in tests/modeling/test_search.py).

    Args:
        data: (rows, embed_dim).
        scales: (rows,) float32 for int8, else None.
    """

    def __init__(self, data: torch.Tensor, scales: torch.Tensor | None = None):
        self.data, self.scales = data, scales

    @classmethod
    def of(cls, embeds: torch.Tensor, storage: str) -> StoredVectors:
        """Embeddings of any length, normalised.

        Raises:
            PolyvidError: for an unknown storage.
        """
        check_storage(storage)
        unit = F.normalize(embeds.float(), dim=-1)
        if storage != "int8":
            return cls(unit.to(STORAGES[storage]).contiguous())
        scales = unit.abs().amax(dim=-1).clamp_min(1e-12) / 127
        return cls((unit / scales[:, None]).round().to(torch.int8), scales)

    def __len__(self) -> int:
        return len(self.data)

    @property
    def storage(self) -> str:
        return str(self.data.dtype).removeprefix("torch.")

    def __getitem__(self, rows: slice | torch.Tensor) -> torch.Tensor:
        """These rows as float32."""
        wide = self.data[rows].float()
        return wide if self.scales is None else wide * self.scales[rows][..., None]

    def scan(
        self, queries: torch.Tensor, k: int, allowed: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest of all rows: scores and rows, both (queries, min(k, rows allowed)), best first.

        Args:
            queries: (queries, embed_dim) float32 of length 1.
            allowed: (rows,) bool, the rows to look at; all without it.
        """
        rows = None if allowed is None else allowed.nonzero()[:, 0]
        count = len(self) if rows is None else len(rows)
        # One buffer for all blocks: fresh memory for each block takes longer than widening what goes into it.
        buffer = torch.empty(max(1, BLOCK_BYTES // (4 * self.data.shape[1])), self.data.shape[1])
        scores, best = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long)
        for start in range(0, count, len(buffer)):
            block = slice(start, min(start + len(buffer), count))
            part = block if rows is None else rows[block]
            stored = self.data[part]
            wide = stored if stored.dtype == torch.float32 else buffer[: len(stored)].copy_(stored)
            similarity = queries @ wide.T
            if self.scales is not None:
                similarity *= self.scales[part]
            # The best of the block first: a merge of all its scores would copy them.
            block_scores, block_best = similarity.topk(min(k, similarity.shape[1]), dim=-1)
            block_rows = block_best + start if rows is None else rows[block][block_best]
            scores, order = torch.cat([scores, block_scores], -1).topk(min(k, scores.shape[1] + block_scores.shape[1]))
            best = torch.cat([best, block_rows], -1).gather(1, order)
        return scores, best

    def rerank(self, queries: torch.Tensor, candidates: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The best k of each query's own candidates by the stored vectors.

        Args:
            queries: as for `scan`.
            candidates: (queries, candidates) int64 rows; -1 is no row and gets the score -inf.
        """
        scores = []
        step = max(1, BLOCK_BYTES // (4 * self.data.shape[1] * max(1, candidates.shape[1])))
        for query, rows in zip(queries.split(step), candidates.split(step), strict=True):
            similarity = torch.einsum("qd,qcd->qc", query, self[rows.clamp_min(0)])
            scores.append(similarity.masked_fill(rows < 0, -torch.inf))
        best, order = torch.cat(scores).topk(min(k, candidates.shape[1]), dim=-1)
        return best, candidates.gather(1, order)

    @classmethod
    def cat(cls, parts: Sequence[StoredVectors]) -> StoredVectors:
        scales = [part.scales for part in parts if part.scales is not None]
        return cls(torch.cat([part.data for part in parts]), torch.cat(scales) if scales else None)

    def kept(self, rows: torch.Tensor) -> StoredVectors:
        """Those of these rows, (kept,) int64, as they are stored."""
        return StoredVectors(self.data[rows], None if self.scales is None else self.scales[rows])

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"video_embeds": self.data} | ({} if self.scales is None else {"video_embeds.scales": self.scales})

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> StoredVectors:
        """
        Raises:
            PolyvidError: if the vectors are missing, empty or of another type, or their scales do not fit.
        """
        data, scales = tensors.get("video_embeds"), tensors.get("video_embeds.scales")
        if data is None or data.ndim != 2 or 0 in data.shape or data.dtype not in STORAGES.values():
            found = "missing" if data is None else f"{data.dtype} {tuple(data.shape)}"
            raise PolyvidError(f"'video_embeds' is {found}")
        if (data.dtype == torch.int8) != (scales is not None):
            raise PolyvidError("'video_embeds.scales' belongs to int8 vectors, and to no others")
        if scales is not None:
            if (scales.dtype, scales.shape) != (torch.float32, data.shape[:1]):
                raise PolyvidError(f"'video_embeds.scales' is {scales.dtype} {tuple(scales.shape)}")
            if not (scales.isfinite() & (scales > 0)).all():
                raise PolyvidError("'video_embeds.scales' are out of range")
        return cls(data, scales)
