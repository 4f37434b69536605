"""The text tower of a dual encoder, such as CLIP or SigLIP, as the backbone of an MMPModel.

Most of these towers have no entry in transformers' `AutoModel`, each has its own place for the projection into the
joint space, and the embedding of a text is that of one of its tokens, the first or the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from .errors_mmp import PolyvidError


@dataclass(frozen=True)
class TextTower:
    """How the dual encoders of one family embed texts.

    Attributes:
        model_class: of the tower, in transformers.
        pooling: the token that stands for the text, `"first"` or `"last"`.
        projection: path, in the dual encoder, of the linear map from the tower to the joint space.
    """

    model_class: str
    pooling: str
    projection: str = "text_projection"


TEXT_TOWERS = {
    "altclip_text_model": TextTower("AltCLIPTextModel", "first"),
    "chinese_clip_text_model": TextTower("ChineseCLIPTextModel", "first"),
    "clip_text_model": TextTower("CLIPTextModel", "last"),
    "metaclip_2_text_model": TextTower("MetaClip2TextModel", "last"),
    "siglip_text_model": TextTower("SiglipTextModel", "last", "text_model.head"),
    "siglip2_text_model": TextTower("Siglip2TextModel", "last", "text_model.head"),
}
"""`model_type` of the tower's own configuration → what it is."""


def text_config_of(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the text tower, if `config` is that of a dual encoder; else `config` itself."""
    text_config: PreTrainedConfig | None = getattr(config, "text_config", None)
    return text_config if text_config is not None and text_config.model_type in TEXT_TOWERS else config


def class_of_tower(text_config: PreTrainedConfig) -> Any:
    """The class of transformers for such a tower; None for other encoders."""
    tower = TEXT_TOWERS.get(text_config.model_type)
    return tower and getattr(transformers, tower.model_class)


def output_width(text_config: Any) -> int:
    """Width of a backbone's last hidden state. AltCLIP's tower projects its own once more."""
    wide: int = text_config.project_dim if text_config.model_type == "altclip_text_model" else text_config.hidden_size
    return wide


def without_head(tower: PreTrainedModel) -> PreTrainedModel:
    """The tower without SigLIP's projection, which is `text_projection` in an MMPModel."""
    if isinstance(getattr(tower, "head", None), nn.Linear):
        tower.head = nn.Identity()
    return tower


def take_apart(dual_encoder: PreTrainedModel) -> tuple[PreTrainedModel, nn.Linear, str]:
    """The text tower of a dual encoder, its projection into the joint space, and which token stands for the text.

    Raises:
        PolyvidError: for a model of another kind.
    """
    config = text_config_of(dual_encoder.config)
    if config is dual_encoder.config:
        raise PolyvidError(
            f"A {dual_encoder.config.model_type} is no dual encoder that training can start from: use one of "
            "AltCLIP, Chinese-CLIP, CLIP, Meta CLIP 2, SigLIP and SigLIP 2."
        )
    tower = TEXT_TOWERS[config.model_type]
    projection: Any = dual_encoder.get_submodule(tower.projection)
    return without_head(dual_encoder.get_submodule("text_model")), projection, tower.pooling
