"""The model that made a [`VideoIndex`]: what it is called, where it is now, and how an index knows it again."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from .errors_mmp import PolyvidError
from .paths_mmp import check_local_path, is_local_path
from .provenance_mmp import Encoders, checked_encoders, differing_keys, refuse_other_encoders

if TYPE_CHECKING:
    from .modeling_mmp import MMPModel
    from .processing_mmp import MMPProcessor

PROBE = "a person talks to the camera"
SAME = 0.99
"""The cosine of two probes from which one model made both: half precision stays above it, another model is far off."""


class Maker:
    """The model of an index.

    Args:
        name: its Hub id, or the absolute path of its folder; "" for a model that was never saved.
        weights: the digest of its weights, or the commit of its Hub repository; "" if unknown.
        probe: (embed_dim,) what it makes of a fixed text; None in indexes without a model.
        model, processor: if they are loaded already.
        checked: whether that model is known to be the one that made the probe.
        video_encoders: records of the networks behind the features, as in `provenance_mmp`; None if nobody knows.
        other_encoders: whether the model was made for others, which was allowed.
    """

    def __init__(
        self,
        name: str = "",
        weights: str = "",
        probe: torch.Tensor | None = None,
        model: MMPModel | str | None = None,
        processor: MMPProcessor | None = None,
        checked: bool = False,
        video_encoders: Encoders | None = None,
        other_encoders: bool = False,
    ):
        self.video_encoders, self.other_encoders = video_encoders, other_encoders
        self.name, self.weights, self.probe = name, weights, probe
        self._model, self._processor, self._checked = model, processor, model if checked else None

    @classmethod
    def of(
        cls,
        model: MMPModel,
        processor: MMPProcessor,
        encoders: Encoders | None = None,
        allow_other_encoders: bool = False,
    ) -> Maker:
        """The model that makes an index now, of features of these networks; default: those it was made for.

        Raises:
            PolyvidError: if it was made for others, unless that is allowed.
        """
        expected = _encoders_of(model)
        if encoders is not None:
            advice = "pass features of those, or allow_other_encoders=True."
            called = model.name_or_path or "the model"
            refuse_other_encoders("The collection", encoders, called, expected, advice, allow_other_encoders)
        name = model.name_or_path
        name = os.path.abspath(name) if name and is_local_path(name) else name
        others = bool(encoders and expected and differing_keys(encoders, expected))
        return cls(name, "", _probe(model, processor), model, processor, True, encoders or expected, others)

    @classmethod
    def from_facts(
        cls,
        facts: dict[str, Any],
        probe: torch.Tensor | None,
        folder: Path,
        model: MMPModel | str | None,
        processor: MMPProcessor | None,
    ) -> Maker:
        """The model that a file of an index names.

        Args:
            facts: as `facts` wrote them; older versions wrote the name as it was typed, and no digest.
            probe: from the file.
            folder: where the file is.
            model, processor: those that its user brings instead.

        Raises:
            PolyvidError: for records of networks that are none.
        """
        name = facts["model"]
        if name and is_local_path(name) and not os.path.isabs(name):
            beside = os.path.normpath(os.path.join(os.path.abspath(folder), name))
            name = os.path.abspath(name) if os.path.exists(name) and not os.path.exists(beside) else beside
        encoders = checked_encoders(facts.get("video_encoders"), "its video_encoders")
        others = facts.get("other_encoders", False)
        return cls(
            name, facts.get("weights", ""), probe, model, processor, video_encoders=encoders, other_encoders=others
        )

    def facts(self, folder: Path) -> dict[str, Any]:
        """What a file in `folder` says of it: a Hub id, or a path relative to that folder, and what else is known."""
        if not self.weights:
            self.weights = _weights_of(self.name, self._model)
        known: dict[str, Any] = {"model": _named_from(folder, self.name), "weights": self.weights}
        if self.video_encoders is not None:
            known |= {"video_encoders": self.video_encoders, "other_encoders": self.other_encoders}
        return known

    def made_the_same(self, other: Maker) -> bool:
        """Whether both are one model, wherever each was loaded from, and features of the same networks."""
        known = self.video_encoders, other.video_encoders
        if all(known) and known[0] != known[1]:
            return False
        if self.probe is None or other.probe is None:
            return self.name == other.name
        return _alike(self.probe, other.probe)

    def towers(self) -> tuple[MMPModel, MMPProcessor]:
        """The model and its processor, loaded when first needed.

        Raises:
            PolyvidError: if it is unknown, or not the model that made the index.
            OSError: if it is not where the index says.
        """
        named = self._model or self.name
        if not named:
            raise PolyvidError("To search with texts, this index needs its model: VideoIndex.load(path, model=...).")
        if named is self.name and os.path.isabs(self.name) and not os.path.exists(self.name):
            known = f" (weights {self.weights})" if self.weights else ""
            raise FileNotFoundError(
                f"The index was made by the model {self.name!r}{known}, which is not there: pass that model."
            )
        model, processor = load_towers(named, self._processor)
        self._model, self._processor = model, processor
        self.check(model, processor)
        return model, processor

    def read_with(self, model: Any, processor: Any) -> None:
        """Takes a model that is loaded already.

        Raises:
            PolyvidError: if it is not the one that made the index.
        """
        self.check(model, processor)
        self._model, self._processor = model, processor

    def check(self, model: MMPModel, processor: MMPProcessor) -> None:
        """
        Raises:
            PolyvidError: if this is not the model that made the index, or was made for features of other networks.
        """
        if self._checked is model:
            return
        expected = _encoders_of(model)
        if self.video_encoders is not None and expected is not None and not self.other_encoders:
            name = model.name_or_path or "this model"
            advice = "use the model that made the index, or build it again."
            refuse_other_encoders("The index", self.video_encoders, name, expected, advice)
        if self.probe is None:
            return
        if not _alike(_probe(model, processor), self.probe):
            raise PolyvidError(
                f"The index was made by another model, {self.name or 'one without a name'}: "
                f"{model.name_or_path or 'this one'} reads texts differently. Use that model, or build the index again."
            )
        self._checked = model


def load_towers(
    model: MMPModel | str | os.PathLike[str], processor: MMPProcessor | None
) -> tuple[MMPModel, MMPProcessor]:
    """A model and its processor, from their folder or Hub id unless they are given.

    Raises:
        PolyvidError: for a model without a processor, or of another kind.
        OSError: if there is no such model.
    """
    loaded: Any = model  # a model of another copy of this code is one, too
    if isinstance(model, str | os.PathLike):
        from transformers import PreTrainedConfig  # seconds, which an index that is given its model does without

        from .modeling_mmp import MMPModel

        check_local_path(model, "model")
        kind = PreTrainedConfig.get_config_dict(model)[0].get("model_type")
        if kind != MMPModel.config_class.model_type:
            raise PolyvidError(
                f"{os.fspath(model)} is a {kind}, not an MMP model: pass what embeds its texts, as polyvid search does."
            )
        loaded = MMPModel.from_pretrained(model, dtype="float32").eval()
    if processor is None:
        if not loaded.name_or_path:
            raise PolyvidError("Pass the processor too: the model was not loaded from a folder that has one.")
        from .processing_mmp import MMPProcessor

        processor = MMPProcessor.from_pretrained(loaded.name_or_path)
    return loaded, processor


def _named_from(folder: Path, name: str) -> str:
    if not os.path.isabs(name):
        return name
    try:
        path = Path(os.path.relpath(name, os.path.abspath(folder))).as_posix()
    except ValueError:  # on another drive
        return name
    return path if path.startswith(".") else f"./{path}"


def _encoders_of(model: MMPModel) -> Encoders | None:
    """Records of the networks that the model was made for; an older copy of this code has none."""
    encoders: Encoders | None = getattr(model.config, "video_encoders", None)
    return encoders


def _alike(probe: torch.Tensor, other: torch.Tensor) -> bool:
    return len(probe) == len(other) and bool(F.cosine_similarity(probe, other, dim=0) >= SAME)


def _probe(model: MMPModel, processor: MMPProcessor) -> torch.Tensor:
    """(embed_dim,) what the model makes of a fixed text: this is how an index recognises its model."""
    return model.encode_texts([PROBE], processor)[0]


def _weights_of(name: str, model: MMPModel | str | None) -> str:
    """What tells the weights apart from others of that name: the digest of their files, or the Hub's commit."""
    if os.path.isabs(name) and (files := sorted(Path(name).glob("model*.safetensors"))):
        return _digest_of(*((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))
    return str(getattr(getattr(model, "config", None), "_commit_hash", None) or "")


@lru_cache(maxsize=8)
def _digest_of(*files: tuple[Path, int, int]) -> str:
    """Of files that are given with size and time, so that each is read once in a process as long as it stays."""
    digest = hashlib.blake2b(digest_size=16)
    for path, _, _ in files:
        with open(path, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "blake2b").digest())
    return digest.hexdigest()
