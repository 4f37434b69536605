"""Caches the output of the frozen layers, so that they run once per text instead of once per step.

§5.2 freezes the embeddings and the lower layers. They have no dropout, so their output for a sequence of tokens is
always the same. Training sees the same captions in every epoch. Noised captions (Eq. 3) repeat too, because at 5 % a
short caption has few variants.
"""

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers.utils import logging

from polyvid.dataset_scripts.locking import locked
from polyvid.modeling import MMPModel
from polyvid.modeling.errors_mmp import PolyvidError

VIEWS = ("", "noisy_", "pivot_", "noisy_pivot_")
FORMAT = 2  # with a checksum for each text
ROWS = 8  # texts of one length that pass through the frozen layers together
AHEAD = 8  # batches whose new texts are computed together: one batch has too few of each length to fill the groups
WAIT = 600.0  # seconds to wait while another run saves its states

logger = logging.get_logger(__name__)

Block = tuple[int, int, int]  # for one text: first row, number of rows (tokens), CRC-32 of their bytes


@dataclass
class _Rows:
    """Blocks of float16 rows in a file, (rows, width)."""

    file: IO[bytes]
    width: int
    num_rows: int = 0
    blocks: dict[str, Block] = field(default_factory=dict)

    def get(self, key: str) -> np.ndarray | None:
        """The block of a key, (tokens, width); None if it is missing or damaged."""
        if key not in self.blocks:
            return None
        first, length, checksum = self.blocks[key]
        row = 2 * self.width
        data = os.pread(self.file.fileno(), length * row, first * row)
        if len(data) < length * row or zlib.crc32(data) != checksum:
            return None
        return np.frombuffer(data, dtype=np.float16).reshape(length, self.width)

    def append(self, key: str, block: np.ndarray) -> None:
        data = np.ascontiguousarray(block, dtype=np.float16)
        self.file.write(data.tobytes())
        self.blocks[key] = (self.num_rows, len(data), zlib.crc32(data.tobytes()))
        self.num_rows += len(data)


class FrozenStates:
    """A growing cache of hidden states by token ids, which several runs may share.

    There are two files: `{path}.f16` holds the states one after another, and `{path}.json` holds the index and a
    fingerprint of the frozen weights. New states go to a temporary file until `save` appends them, under a lock; the
    index is replaced last. So indexed states never move, and a killed run loses only what it added since the last
    `save`. Every text has a checksum: damaged or missing states are computed again, with a warning.

    Texts pass through the frozen layers in groups of equal length and fixed size, so that the states of a text do not
    depend on the other texts in the group or on which run computed them.

    Args:
        path: file name without suffix.
        model: its frozen layers are run for new texts.

    Raises:
        PolyvidError: if the files belong to other frozen weights.
    """

    def __init__(self, path: str | Path, model: MMPModel):
        self.model = model
        self.hidden_size: int = model.config.frozen_width
        self.path, self.data_path, self.index_path = Path(path), Path(f"{path}.f16"), Path(f"{path}.json")
        self.fingerprint = _fingerprint(model)
        self._damaged: dict[str, Block] = {}
        self._new: _Rows | None = None
        self._saved = self._open_saved()

    def __len__(self) -> int:
        """The number of texts."""
        return len((self._saved.blocks if self._saved else {}) | (self._new.blocks if self._new else {}))

    def replace_tokens(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Replace `input_ids` in a batch by `frozen_hidden_states`, for every view.

        Padding is zero. New texts are passed through the frozen layers.
        """
        batch = dict(batch)
        for view in VIEWS:
            input_ids = batch.pop(f"{view}input_ids", None)
            if input_ids is not None:
                mask = batch[f"{view.removeprefix('noisy_')}attention_mask"]
                batch[f"{view}frozen_hidden_states"] = self.lookup(input_ids, mask)
        return batch

    def read_ahead(self, batches: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """The same batches. `AHEAD` of them are read together, and their new texts are computed together."""
        batches = iter(batches)
        while window := list(islice(batches, AHEAD)):
            self.add(
                text
                for batch in window
                for view in VIEWS
                if f"{view}input_ids" in batch
                for text in _texts(batch[f"{view}input_ids"], batch[f"{view.removeprefix('noisy_')}attention_mask"])
            )
            yield from window

    def add(self, texts: Iterable[np.ndarray], progress: str | None = None) -> None:
        """Pass those texts (token ids without padding) through the frozen layers that are new.

        The more texts at once, the faster: groups of equal length are filled.

        Args:
            progress: label of a progress bar, shown if it takes more than a few seconds; None shows no bar.

        Raises:
            OSError: if the temporary file cannot be written.
        """
        missing = {key: ids for ids in texts if self._find(key := _key(ids)) is None}
        if missing:
            self._compute(missing, progress)

    def lookup(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states (batch, tokens, hidden_size) in float32, zero where `attention_mask` (batch, tokens) is 0.

        Raises:
            OSError: if the temporary file cannot be written or read.
        """
        texts = _texts(input_ids, attention_mask)
        keys = [_key(ids) for ids in texts]
        found = {key: self._find(key) for key in keys}
        if missing := {key: ids for key, ids in zip(keys, texts, strict=True) if found[key] is None}:
            self._compute(missing)
            found |= {key: self._find(key) for key in missing}
        states = np.zeros((*input_ids.shape, self.hidden_size), dtype=np.float16)
        for row, key in zip(states, keys, strict=True):
            block = found[key]
            if block is None:
                raise OSError(f"States just written next to {self.path} cannot be read back: check the disk.")
            row[: len(block)] = block
        return torch.from_numpy(states).to(input_ids.device).float()

    def save(self) -> None:
        """Make everything computed so far permanent.

        Raises:
            LockedError: if another run is still saving to the same files after `WAIT` seconds.
            OSError: if the files cannot be written.
        """
        if self._new is None:
            return
        with locked(self.path, "polyvid train", wait=WAIT):
            num_rows, blocks = self._read_index()  # another run may have added to it
            with open(self.data_path, "ab") as file:
                file.truncate(num_rows * self.hidden_size * 2)  # drop what a killed run wrote but did not index
                rows = _Rows(file, self.hidden_size, num_rows, blocks)
                for key in self._new.blocks:
                    block = self._new.get(key)
                    if block is not None and (key not in blocks or blocks[key] == self._damaged.get(key)):
                        rows.append(key, block)
                file.flush()
                os.fsync(file.fileno())
            content: dict[str, Any] = {"format": FORMAT, "fingerprint": self.fingerprint}
            content |= {"num_rows": rows.num_rows, "rows": rows.blocks}
            unfinished = self.index_path.with_name(f".{self.index_path.name}.unfinished")
            unfinished.write_text(json.dumps(content))
            os.replace(unfinished, self.index_path)
            self._saved = self._open_saved()
        self._new, self._damaged = None, {}

    def _find(self, key: str) -> np.ndarray | None:
        if self._new is not None and key in self._new.blocks:
            return self._new.get(key)
        if self._saved is None or key not in self._saved.blocks or key in self._damaged:
            return None
        block = self._saved.get(key)
        if block is None:
            self._damaged[key] = self._saved.blocks[key]
            logger.warning(f"{self.data_path} is damaged: the states of a text have changed and are computed again.")
        return block

    def _open_saved(self) -> _Rows | None:
        num_rows, blocks = self._read_index()
        return _Rows(open(self.data_path, "rb"), self.hidden_size, num_rows, blocks) if blocks else None

    def _read_index(self) -> tuple[int, dict[str, Block]]:
        """The number of rows and the blocks that are valid in both files."""
        if not self.index_path.exists():
            return 0, {}
        try:
            index = json.loads(self.index_path.read_text())
            if index.get("format", FORMAT) == FORMAT and index["fingerprint"] != self.fingerprint:
                raise PolyvidError(
                    f"{self.index_path} was made with different frozen layers: delete it, or name another file in "
                    "data.frozen_states."
                )
            if index.get("format") != FORMAT:
                raise KeyError("format")
            num_rows, blocks = int(index["num_rows"]), {key: tuple(value) for key, value in index["rows"].items()}
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
            logger.warning(f"{self.index_path} is damaged or from an older version: all states are computed again.")
            return 0, {}
        size = self.data_path.stat().st_size if self.data_path.exists() else 0
        present = min(num_rows, size // (2 * self.hidden_size))
        if present < num_rows:
            whole = {key: block for key, block in blocks.items() if block[0] + block[1] <= present}
            lost = len(blocks) - len(whole)
            logger.warning(f"{self.data_path} was truncated: {lost:,} of {len(blocks):,} texts are computed again.")
            return present, whole
        return num_rows, blocks

    def _compute(self, texts: dict[str, np.ndarray], progress: str | None = None) -> None:
        """Pass texts (key → token ids) through the frozen layers."""
        if self._new is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._new = _Rows(tempfile.TemporaryFile(dir=self.path.parent, buffering=0), self.hidden_size)
        by_length: dict[int, list[str]] = {}
        for key, ids in texts.items():
            by_length.setdefault(len(ids), []).append(key)
        hidden_bar = progress is None
        with tqdm(total=len(texts), desc=progress, unit=" texts", disable=hidden_bar, delay=3, leave=False) as bar:
            for group in by_length.values():
                for start in range(0, len(group), ROWS):
                    keys = group[start : start + ROWS]
                    ids = np.stack([texts[keys[min(row, len(keys) - 1)]] for row in range(ROWS)])  # the last repeated
                    input_ids = torch.from_numpy(ids).to(self.model.device)
                    hidden = self.model.encode_frozen_layers(input_ids, torch.ones_like(input_ids))
                    for key, states in zip(keys, hidden.to("cpu", torch.float16).numpy(), strict=False):
                        self._new.append(key, states)
                    bar.update(len(keys))


def _texts(input_ids: Tensor, attention_mask: Tensor) -> list[np.ndarray]:
    """Token ids (batch, tokens) without the padding at their ends."""
    lengths = attention_mask.sum(1).tolist()
    return [ids[:length] for ids, length in zip(input_ids.cpu().numpy(), lengths, strict=True)]


def _key(ids: np.ndarray) -> str:
    return hashlib.blake2b(ids.tobytes(), digest_size=12).hexdigest()


def _fingerprint(model: MMPModel) -> str:
    """A hash of the frozen layers: their number and a sample of every frozen tensor."""
    digest = hashlib.blake2b(f"{model.config.freeze_below}".encode(), digest_size=16)
    for name, parameter in model.text_model.named_parameters():
        if not parameter.requires_grad:
            flat = parameter.detach().flatten()
            sample = flat[:: max(1, len(flat) // 256)].float().cpu().numpy()
            digest.update(name.encode() + sample.tobytes())
    return digest.hexdigest()
