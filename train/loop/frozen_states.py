"""Keeps what the frozen layers make of each text, so that they run once per text and not once per step.

§5.2 freezes the embeddings and the lower layers, and they are without dropout: their output for a sequence of tokens
is always the same. Training visits the same captions in every epoch; noised ones (Eq. 3) repeat too, because at 5 %
a short caption has few variants.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from polyvid.modeling import MMPModel
from polyvid.modeling.errors_mmp import PolyvidError

VIEWS = ("", "noisy_", "pivot_", "noisy_pivot_")


class FrozenStates:
    """A growing float16 file of hidden states, indexed by token ids.

    Two files: `{path}.f16` holds the states one after the other, `{path}.json` the index and a fingerprint of the
    frozen weights. The index is written last and by renaming, so that a killed run loses at most what it added since
    the last `save`.

    Args:
        path: file name without suffix.
        model: whose frozen layers are run for new texts.

    Raises:
        PolyvidError: if the files belong to other frozen weights.
    """

    def __init__(self, path: str | Path, model: MMPModel):
        self.model = model
        self.hidden_size = model.config.text_config.hidden_size
        self.data_path = Path(f"{path}.f16")
        self.index_path = Path(f"{path}.json")
        self.fingerprint = _fingerprint(model)
        self.rows: dict[str, tuple[int, int]] = {}  # digest of the token ids -> (first row, number of rows)
        self.num_rows = 0
        self.data_path.parent.mkdir(parents=True, exist_ok=True)
        if self.index_path.exists():
            index = json.loads(self.index_path.read_text())
            if index["fingerprint"] != self.fingerprint:
                raise PolyvidError(
                    f"{self.index_path} was made with other frozen layers: delete it or name another file."
                )
            self.rows = {key: tuple(value) for key, value in index["rows"].items()}
            self.num_rows = index["num_rows"]
        self.data_path.touch()
        os.truncate(self.data_path, self.num_rows * self.hidden_size * 2)
        self._data = self._read()

    def replace_tokens(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch with `frozen_hidden_states` (of every view) in place of `input_ids`.

        States are those of the real tokens; padding is zero. New texts are run through the frozen layers.
        """
        batch = dict(batch)
        for view in VIEWS:
            input_ids = batch.pop(f"{view}input_ids", None)
            if input_ids is not None:
                mask = batch[f"{view.removeprefix('noisy_')}attention_mask"]
                batch[f"{view}frozen_hidden_states"] = self.lookup(input_ids, mask)
        return batch

    def lookup(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states (batch, tokens, hidden_size) in float32, zero where `attention_mask` (batch, tokens) is 0."""
        lengths = attention_mask.sum(1).tolist()
        tokens = [ids[:length] for ids, length in zip(input_ids.cpu().numpy(), lengths, strict=True)]
        keys = [hashlib.blake2b(ids.tobytes(), digest_size=12).hexdigest() for ids in tokens]
        missing = {key: position for position, key in enumerate(keys) if key not in self.rows}
        if missing:
            self._compute(missing, input_ids, attention_mask, lengths)
        states = np.zeros((*input_ids.shape, self.hidden_size), dtype=np.float16)
        for row, key in zip(states, keys, strict=True):
            first, length = self.rows[key]
            row[:length] = self._data[first : first + length]
        return torch.from_numpy(states).to(input_ids.device).float()

    def save(self) -> None:
        """Make everything computed so far permanent."""
        unfinished = self.index_path.with_name(f".{self.index_path.name}.unfinished")
        index = {"fingerprint": self.fingerprint, "num_rows": self.num_rows, "rows": self.rows}
        unfinished.write_text(json.dumps(index))
        os.replace(unfinished, self.index_path)

    def _compute(self, missing: dict[str, int], input_ids: Tensor, attention_mask: Tensor, lengths: list[int]) -> None:
        device = self.model.device
        positions = sorted(missing.values(), key=lengths.__getitem__)
        keys = {position: key for key, position in missing.items()}
        with open(self.data_path, "ab") as file:
            for start in range(0, len(positions), 32):  # sorted by length: little padding
                part = positions[start : start + 32]
                longest = max(lengths[position] for position in part)
                ids, mask = (tensor[part, :longest].to(device) for tensor in (input_ids, attention_mask))
                hidden = self.model.encode_frozen_layers(ids, mask).to("cpu", torch.float16)
                for states, position in zip(hidden, part, strict=True):
                    length = lengths[position]
                    file.write(states[:length].numpy().tobytes())
                    self.rows[keys[position]] = (self.num_rows, length)
                    self.num_rows += length
        self._data = self._read()

    def _read(self) -> np.ndarray:
        if self.num_rows == 0:
            return np.zeros((0, self.hidden_size), dtype=np.float16)
        return np.memmap(self.data_path, dtype=np.float16, mode="r", shape=(self.num_rows, self.hidden_size))


def _fingerprint(model: MMPModel) -> str:
    """Of the frozen layers: their number and a sample of every frozen tensor."""
    digest = hashlib.blake2b(f"{model.config.freeze_below}".encode(), digest_size=16)
    for name, parameter in model.text_model.named_parameters():
        if not parameter.requires_grad:
            flat = parameter.detach().flatten()
            sample = flat[:: max(1, len(flat) // 256)].float().cpu().numpy()
            digest.update(name.encode() + sample.tobytes())
    return digest.hexdigest()
