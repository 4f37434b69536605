"""Frozen teachers: what they make of the training data is computed once, before the first step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyvid.modeling import MMPModel, MMPProcessor
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.provenance_mmp import refuse_other_encoders
from polyvid.train.data.captions import PivotSampler
from polyvid.train.data.clips import ClipDataset
from polyvid.train.data.videos import VideoFeatures
from polyvid.train.loading import load_model
from polyvid.train.loop.frozen_states import FrozenStates
from polyvid.train.recipe import Recipe
from polyvid.train.scoring.sentences import SentenceVectors


@dataclass(frozen=True)
class Teachers:
    """Embeddings of the training data by frozen models.

    They take 4 bytes for each teacher, dimension and English sentence or video: 0.5 GB for the 130,000 captions of VTT
    at 1024 dimensions.

    Attributes:
        english: English text → (embed_dim,) of the teacher of the term `teach`; empty without this term.
        texts: English text → (teachers, width) of the teachers of the term `distill`; likewise.
        videos: video id → (teachers, width) of the same.
    """

    english: dict[str, np.ndarray] = field(default_factory=dict)
    texts: dict[str, np.ndarray] = field(default_factory=dict)
    videos: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        model: MMPModel,
        processor: MMPProcessor,
        train_set: PivotSampler | ClipDataset,
        features: VideoFeatures | None,
    ) -> "Teachers | None":
        """Those of a recipe; None if it has none. `model` is the student as it starts.

        Raises:
            OSError: if a teacher cannot be loaded.
            PolyvidError: for a teacher whose embeddings have another width than the student's (`teach`) or that was
                made for other features (`distill`).
        """
        terms = recipe.objective.terms
        if {"teach", "distill"}.isdisjoint(terms):
            return None
        assert isinstance(train_set, PivotSampler), "recipes of clips have no such terms"
        teachers = cls()
        if "teach" in terms:
            teachers.english.update(_english(recipe, model, processor, train_set.english_texts))
        if "distill" in terms:
            assert features is not None, "a recipe with distill has videos"
            models = [load_model(name, "cpu") for name in recipe.objective.distill_teachers]
            for name, (teacher, _) in zip(recipe.objective.distill_teachers, models, strict=True):
                _check_features(recipe, name, teacher, features)
            texts, video_ids = train_set.english_texts, train_set.video_ids
            videos = [features[video_id] for video_id in video_ids]
            of_texts = _stacked([teacher.encode_texts(texts, its) for teacher, its in models])
            of_videos = _stacked([teacher.encode_videos(videos, its) for teacher, its in models])
            teachers.texts.update(zip(texts, of_texts, strict=True))
            teachers.videos.update(zip(video_ids, of_videos, strict=True))
        return teachers

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Part of a batch, for rows with `english_text` and `video_id`.

        `teacher_embeds` (batch, embed_dim), `teacher_text_embeds` and `teacher_video_embeds` (batch, teachers, width).
        """
        found = {}
        if self.english:
            found["teacher_embeds"] = np.stack([self.english[row["english_text"]] for row in rows])
        if self.texts:
            found["teacher_text_embeds"] = np.stack([self.texts[row["english_text"]] for row in rows])
            found["teacher_video_embeds"] = np.stack([self.videos[row["video_id"]] for row in rows])
        return {name: torch.from_numpy(embeds) for name, embeds in found.items()}


def _english(recipe: Recipe, model: MMPModel, processor: MMPProcessor, texts: list[str]) -> dict[str, np.ndarray]:
    """What `objective.teacher`, or the student as it starts, makes of English texts."""
    name, states = recipe.objective.teacher, None
    if name is not None:
        teacher, its_processor = load_model(name, "cpu")
        if teacher.config.embed_dim != model.config.embed_dim:
            raise PolyvidError(
                f"The teacher {name} has embeddings of {teacher.config.embed_dim} numbers, the model of "
                f"{model.config.embed_dim}: choose a teacher of the same model.embed_dim."
            )
    else:
        teacher, its_processor = model, processor
        states = FrozenStates(recipe.data.frozen_states, model) if recipe.data.frozen_states is not None else None
    embeds = SentenceVectors(teacher, its_processor, states).embeddings(texts)
    if states is not None:
        states.save()
    return dict(zip(texts, embeds.astype(np.float32), strict=True))


def _check_features(recipe: Recipe, name: str, teacher: MMPModel, features: VideoFeatures) -> None:
    """
    Raises:
        PolyvidError: if the training features are not those that a teacher was made for.
    """
    refuse_other_encoders(
        str(features.folder),
        features.encoders,
        name,
        teacher.config.video_encoders,
        "choose a teacher that was made for these features, or set data.allow_other_encoders=true.",
        allow=recipe.data.allow_other_encoders,
    )
    given, wanted = next(iter(features.values())).shape[1], teacher.config.video_feature_dim
    if given != wanted:
        raise PolyvidError(f"The teacher {name} takes features of width {wanted}, {features.folder} has {given}.")


def _stacked(embeds: Sequence[Tensor]) -> np.ndarray:
    """(rows, teachers, width): the widest teacher's width, the others filled up with zeros."""
    width = max(rows.shape[1] for rows in embeds)
    padded = [torch.nn.functional.pad(rows.float().cpu(), (0, width - rows.shape[1])) for rows in embeds]
    return torch.stack(padded, dim=1).numpy()
