"""Sentence vectors from the frozen text backbone: the mean of its output over the tokens."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from polyvid.modeling import MMPModel, MMPProcessor
from polyvid.train.loop.frozen_states import FrozenStates


class SentenceVectors:
    """Texts → (texts, hidden_size) float32. Each text is computed only once.

    The mean includes special tokens, as sentence encoders such as multilingual-e5 are trained.

    Args:
        model: its backbone is used up to `output_layer`; its projections and heads are not.
        processor: tokenizes, and truncates text to its `max_text_length`.
        states: the cache of frozen-layer outputs kept by training. Used if the whole backbone is frozen.
        batch_size: number of texts computed at a time.
    """

    def __init__(
        self, model: MMPModel, processor: MMPProcessor, states: FrozenStates | None = None, batch_size: int = 64
    ):
        self.model, self.processor, self.batch_size = model, processor, batch_size
        whole = model.config.freeze_below == model.config.output_layer
        self.states = states if whole else None
        self._vectors: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        missing = sorted({text for text in texts if text not in self._vectors}, key=lambda text: (len(text), text))
        self._add(missing)
        for start in range(0, len(missing), self.batch_size):
            part = missing[start : start + self.batch_size]
            self._vectors.update(zip(part, self._compute(part), strict=True))
        return np.stack([self._vectors[text] for text in texts])

    def embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """c_x from the whole text tower with its current weights: (texts, embed_dim) float32, not normalised."""
        if self.states is None:
            return self.model.encode_texts(texts, self.processor).numpy()
        rows = np.empty((len(texts), self.model.config.embed_dim), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        self._add(sorted(set(texts)))
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            batch = self.processor(text=[texts[index] for index in part], return_tensors="pt")
            hidden, mask = self.states.lookup(batch["input_ids"], batch["attention_mask"]), batch["attention_mask"]
            with _evaluating(self.model), torch.no_grad():
                embeds = self.model.pool_text(self.model.embed_tokens(None, mask, hidden), mask)
            rows[part] = embeds.float().cpu().numpy()
        return rows

    def _add(self, texts: Sequence[str]) -> None:
        """Let the cache compute all new texts at once, which is faster than batch by batch."""
        if self.states is not None and texts:
            ids = self.processor(text=list(texts), padding=False)["input_ids"]
            self.states.add((np.asarray(row) for row in ids), "sentence vectors")

    def _compute(self, texts: list[str]) -> np.ndarray:
        batch = self.processor(text=texts, return_tensors="pt")
        ids, mask = batch["input_ids"], batch["attention_mask"]
        if self.states is not None:
            hidden = self.states.lookup(ids, mask)
        else:
            device = self.model.device
            with _evaluating(self.model), torch.no_grad():
                output = self.model.text_model(input_ids=ids.to(device), attention_mask=mask.to(device))
            hidden = output.last_hidden_state.float().cpu()
        real = mask[:, :, None].to(hidden.dtype)
        return ((hidden * real).sum(1) / real.sum(1)).numpy()


@contextmanager
def _evaluating(model: MMPModel) -> Iterator[None]:
    """Evaluation mode (no dropout) inside the block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
