"""Turns rows (a clip and its text, possibly in two languages) into a padded and noised batch."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyvid.modeling.errors_mmp import PolyvidError


class MMPCollator:
    """Pads rows into a batch and adds the noised views of Eq. 3 and 5. A `collate_fn` for a `DataLoader`.

    A row is `{"video_id", "language", "text", "video_features"}`, with features `(seconds, video_feature_dim)` as
    numpy or torch arrays; rows with a pivot language (§3.3) add `pivot_language` and `pivot_text`.

    The batch has these tensors:

    - `input_ids`, `attention_mask` `(batch, tokens)`, `video_features` `(batch, seconds, video_feature_dim)`,
      `video_mask` `(batch, seconds)`, 1 for real seconds;
    - with pivots `pivot_input_ids`, `pivot_attention_mask` `(batch, pivot tokens)`;
    - unless `mask_ratio` is 0, `noisy_input_ids`, `noisy_video_features`, `noisy_pivot_input_ids`: each token is
      replaced by the tokenizer's mask token, and each second by a zero vector, with probability `mask_ratio`.
      Special tokens and padding are unchanged, and each view keeps at least one token or second: an all-zero video
      would have no direction, and its gradient would be unbounded. Attention masks are those of the clean views;
    - `video_index` `(batch,)` int64: equal if and only if two rows show the same video, in any process;
    - with `teachers`, what these make of the rows.

    Rows without `video_features`, all of a batch, are texts alone; the batch then has no videos either.

    The noise depends only on (seed, epoch, row), not on the batch or process. A row is identified by its video,
    language and text.

    Args:
        processor: an `MMPProcessor`.
        max_text_length: in tokens; longer texts are truncated (App. C: 192 in pre-training, 96 in fine-tuning).
        max_video_length: in seconds; longer videos are truncated (App. C: 128 and 36).
        mask_ratio: 0 <= ratio < 1 (§3.2: 5 %).
        seed: for the noise.
        teachers: rows → tensors with a row for each.

    Raises:
        PolyvidError: for a ratio outside [0, 1) or a tokenizer without a mask token; when called, for a row with
            a missing key, empty text, no seconds, or NaN in its features (the message names the video).
    """

    def __init__(
        self,
        processor: Any,
        max_text_length: int = 96,
        max_video_length: int = 36,
        mask_ratio: float = 0.05,
        seed: int = 0,
        teachers: Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]] | None = None,
    ):
        if not 0 <= mask_ratio < 1:
            raise PolyvidError(f"mask_ratio must be at least 0 and less than 1, but is {mask_ratio}.")
        if mask_ratio and processor.tokenizer.mask_token_id is None:
            raise PolyvidError("This tokenizer has no mask token to noise text with; use mask_ratio=0 (no intra term).")
        self.processor, self.mask_ratio, self.seed = processor, mask_ratio, seed
        self.max_text_length, self.max_video_length = max_text_length, max_video_length
        self.teachers = teachers
        self._special_ids = torch.tensor(processor.tokenizer.all_special_ids)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw new noise for this epoch. Call it before workers start."""
        self.epoch = epoch

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        pivots = [row.get("pivot_text") is not None for row in rows]
        if any(pivots) and not all(pivots):
            raise PolyvidError(f"Video {rows[pivots.index(False)]['video_id']} has no pivot_text, but others do.")
        needed = ["video_id", "language", "text"]
        if any(row.get("video_features") is not None for row in rows):
            needed.append("video_features")
        for row in rows:
            if missing := [key for key in needed if row.get(key) is None]:
                raise PolyvidError(f"The row of video {row.get('video_id', '(no id)')} lacks {', '.join(missing)}.")
        try:
            batch = self._processed(rows, with_pivots=all(pivots))
        except PolyvidError:
            for row in rows:  # again, one by one, to name the video instead of an index
                try:
                    self._processed([row], with_pivots=all(pivots))
                except PolyvidError as error:
                    raise PolyvidError(f"The row of video {row['video_id']} ({row['language']}): {error}") from error
            raise
        batch["video_index"] = torch.tensor([_digest(row["video_id"]) >> 1 for row in rows])
        if self.teachers is not None:
            batch |= self.teachers(rows)
        return batch | self._noised(batch, rows) if self.mask_ratio else batch

    def _processed(self, rows: Sequence[Mapping[str, Any]], with_pivots: bool) -> dict[str, Tensor]:
        lengths = {"max_text_length": self.max_text_length, "max_video_length": self.max_video_length}
        batch = self.processor(
            text=[row["text"] for row in rows],
            videos=[row["video_features"] for row in rows] if "video_features" in rows[0] else None,
            return_tensors="pt",
            **lengths,
        )
        if with_pivots:
            pivots = self.processor(text=[row["pivot_text"] for row in rows], return_tensors="pt", **lengths)
            batch.update({f"pivot_{key}": value for key, value in pivots.items()})
        return dict(batch)

    def _noised(self, batch: dict[str, Tensor], rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        generators = [
            np.random.default_rng(_digest(self.seed, self.epoch, row["video_id"], row["language"], row["text"]))
            for row in rows
        ]
        noisy = {}
        for prefix in ("", "pivot_") if "pivot_input_ids" in batch else ("",):
            ids = batch[f"{prefix}input_ids"]
            real, special = batch[f"{prefix}attention_mask"].bool(), torch.isin(ids, self._special_ids)
            chosen = self._choose(real, real & ~special, generators)
            noisy[f"noisy_{prefix}input_ids"] = ids.masked_fill(chosen, self.processor.tokenizer.mask_token_id)
        if "video_mask" not in batch:
            return noisy
        seconds = batch["video_mask"].bool()
        chosen = self._choose(seconds, seconds, generators)
        noisy["noisy_video_features"] = batch["video_features"].masked_fill(chosen[:, :, None], 0.0)
        return noisy

    def _choose(self, real: Tensor, allowed: Tensor, generators: list[np.random.Generator]) -> Tensor:
        """(batch, length), True at the positions to noise: some of the `allowed` ones, never all of a row.

        The number of draws is the number of `real` positions in a row, regardless of padding.
        """
        draws = np.ones(real.shape)
        for row, positions, generator in zip(draws, real.numpy(), generators, strict=True):
            row[positions] = generator.random(positions.sum())
        draws[~allowed.numpy()] = -1.0
        draws[np.arange(len(draws)), draws.argmax(1)] = 1.0  # this one is never noised
        return torch.from_numpy((0 <= draws) & (draws < self.mask_ratio))


def _digest(*parts: Any) -> int:
    """The same 64 bits for the same parts on every machine, unlike `hash`."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")
