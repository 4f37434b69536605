"""Frozen teachers: what they make of the training data is computed once, before the first step."""

import numpy as np

from polyvid.modeling import MMPModel, MMPProcessor
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.data.captions import PivotSampler
from polyvid.train.data.clips import ClipDataset
from polyvid.train.loading import load_model
from polyvid.train.loop.frozen_states import FrozenStates
from polyvid.train.recipe import Recipe
from polyvid.train.scoring.sentences import SentenceVectors


def english_teacher(
    recipe: Recipe, model: MMPModel, processor: MMPProcessor, train_set: PivotSampler | ClipDataset
) -> dict[str, np.ndarray]:
    """English text → the teacher's embedding (embed_dim,), for all English sentences of the training set.

    The teacher is `objective.teacher`, or the student itself as it starts.

    Raises:
        OSError: if the teacher cannot be loaded.
        PolyvidError: if its embeddings have another width than the student's.
    """
    assert isinstance(train_set, PivotSampler), "a recipe of clips has no term teach"
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
    texts = train_set.english_texts
    embeds = SentenceVectors(teacher, its_processor, states).embeddings(texts)
    if states is not None:
        states.save()
    return dict(zip(texts, embeds.astype(np.float32), strict=True))
