"""From video files to the features that a model was made for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from polyvid.modeling import MMPModel
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.frame_encoders_mmp import FrameEncoder
from polyvid.modeling.provenance_mmp import Encoders, refuse_other_encoders, shown_encoders
from polyvid.modeling.video_encoders_mmp import VideoEncoders
from polyvid.modeling.video_reading_mmp import VideoError
from polyvid.train.dual_encoders.searching import ZeroShotModel
from polyvid.train.extraction.encode import encode_videos
from polyvid.train.extraction.job import Extraction
from polyvid.train.extraction.listing import has_utf8_name


@dataclass(frozen=True)
class LoadedEncoders:
    """The networks of a model.

    Attributes:
        encoders: in the order in which their vectors are concatenated.
        records: of them, as in `polyvid.modeling.provenance_mmp`.
    """

    encoders: list[FrameEncoder]
    records: Encoders

    def extract(
        self, videos: Sequence[tuple[str, Path]], workers: int
    ) -> Iterator[tuple[str, np.ndarray | VideoError]]:
        """The (seconds, dim) float16 features of each `(video_id, path)`, as `polyvid extract` keeps them, or why it
        cannot be read; in the order in which they are done."""
        for video_id, path in videos:
            if not has_utf8_name(path):
                yield video_id, VideoError("the file's name is not UTF-8: rename it")
        readable = [(video_id, path) for video_id, path in videos if has_utf8_name(path)]
        for video_id, found in encode_videos(readable, self.encoders, workers):
            yield video_id, found if isinstance(found, VideoError) else found.astype(np.float16)


def load_encoders(model: MMPModel | ZeroShotModel, names: Sequence[str] | None = None) -> LoadedEncoders:
    """The networks whose features a model was trained with.

    Args:
        model: says which, unless it was made before models did. A dual encoder is its own network.
        names: as for `polyvid extract --encoder`; must be the same networks where the model says which.

    Raises:
        PolyvidError: if neither says which, or these are others.
        ImportError, OSError: if a network cannot be loaded.
    """
    name = model.name_or_path or "the model"
    recorded = model.config.video_encoders
    if names:
        encoders = Extraction(Path(), tuple(names)).load_encoders()
    elif isinstance(model, ZeroShotModel):
        encoders = [model.frame_encoder]
    elif recorded:
        if others := {record["per"] for record in recorded if "per" in record} - {"second"}:
            raise PolyvidError(f"{name} takes features per {min(others)}: pass features instead of videos.")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        commit = getattr(model.config, "_commit_hash", None)
        encoders = VideoEncoders.load(model.name_or_path, recorded, device, commit).encoders
    else:
        raise PolyvidError(f"{name} does not say which networks made its features: pass --encoder.")
    records: Encoders = [encoder.describe() | {"per": "second"} for encoder in encoders]
    refuse_other_encoders("--encoder", records, name, recorded, "leave out --encoder.")
    columns = sum(record["columns"] for record in records)
    if columns != model.config.video_feature_dim:
        raise PolyvidError(
            f"{shown_encoders(records)} gives {columns} numbers a second, but {name} takes "
            f"{model.config.video_feature_dim}: pass the --encoder that it was trained with."
        )
    return LoadedEncoders(encoders, records)
