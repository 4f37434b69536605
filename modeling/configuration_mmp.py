"""Configuration of the multilingual multimodal Transformer of §3.1 of the paper."""

import copy
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .dual_encoder_mmp import output_width
from .errors_mmp import PolyvidError
from .provenance_mmp import checked_encoders

# FacebookAI/xlm-roberta-large, the paper's best text backbone (Table 1). Its layers 13-24 are never built.
XLM_ROBERTA_LARGE = {
    "model_type": "xlm-roberta",
    "vocab_size": 250002,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}

POSITIONS = ("none", "sinusoidal")
"""What `video_positions` may be."""


@strict
class MMPConfig(PreTrainedConfig):
    r"""Everything that decides the shape of an [`MMPModel`]. The defaults are the paper's XLM-R model (§5.2, App. C).

    Args:
        text_config (`dict` or `PreTrainedConfig`): the text backbone, any encoder `AutoModel` knows. It is cut to
            `output_layer` layers here, so `config.text_config.num_hidden_layers == config.output_layer` always holds.
            `None` means XLM-R-large.
        output_layer (`int`): the backbone layer, counted from 1, whose output is used (Tables 9 and 10).
        freeze_below (`int`): the embeddings and layers 1 ... `freeze_below` are frozen; 0 trains the whole backbone,
            `output_layer` freezes all of it.
        embed_dim (`int`): D, the width of both pooling heads and of the shared embedding space.
        video_feature_dim (`int`): width of one second's concatenated video features.
        image_feature_dim (`int`, *optional*): width of region features (2048 for Faster R-CNN). When set, the model
            owns an `image_projection` to `video_feature_dim` and takes features of either width (§5.6, Multi30K).
        pooler_num_layers (`int`), pooler_num_heads (`int`): shape of a pooling head (Table 2).
        video_pooler_num_layers (`int`, *optional*): depth of the video's head, if it differs from the text's (Table 2).
        pooler_intermediate_size (`int`, *optional*): feed-forward width in a pooling layer; `None`: 4 x `embed_dim`.
        pooler_dropout (`float`): dropout rate in the pooling heads.
        share_poolers (`bool`): one pooling head for text and video (Table 2's 2*).
        video_kernel_size (`int`, *optional*): number of landmarks of an [`MMPKernelMap`] between the features of a
            second and the projection. `None`, as in the paper: no such map.
        video_positions (`str`): `"sinusoidal"` adds Vaswani et al.'s (2017) encoding of a second's place to its
            embedding, before the video's head and before c_{x|v}. `"none"`, as in the paper (App. C): the heads know
            which second comes first, and of the others only that they are there.
        residual_pooling (`str`, *optional*): what the pooling heads give is added to a pooling without weights: for a
            video the mean of the unit vectors of its seconds, for a text the unit vector of its `"first"` or `"last"`
            token, as in the dual encoder that the model began as. The projection of seconds has no bias then. Beyond
            the paper, which has `None`.
        lock_text (`bool`): the whole text tower is frozen, projection and pooling head included. Beyond the paper.
        temperature (`float`): softmax temperature of every contrastive objective (Eq. 2).
        mask_ratio (`float`): share of text tokens and of video seconds masked in the noisy views (Eq. 3).
        video_encoders (`list`, *optional*): records of the networks that made the features the model was trained on,
            see `provenance_mmp`; `None` where that was not recorded.

    Raises:
        PolyvidError: if the numbers contradict one another; the message names both.

    Example:

    >>> config = MMPConfig(text_config={"model_type": "bert"}, embed_dim=256)  # mBERT's shape
    >>> config.text_config.num_hidden_layers
    12
    """

    model_type = "mmp"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="xlm-roberta")}

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    output_layer: int = 12
    freeze_below: int = 9
    embed_dim: int = 1024
    video_feature_dim: int = 1024
    image_feature_dim: int | None = None
    pooler_num_layers: int = 2
    video_pooler_num_layers: int | None = None
    pooler_num_heads: int = 4
    pooler_intermediate_size: int | None = None
    pooler_dropout: float | int = 0.3
    share_poolers: bool = False
    video_kernel_size: int | None = None
    video_positions: str = "none"
    residual_pooling: str | None = None
    lock_text: bool = False
    temperature: float | int = 0.1
    mask_ratio: float | int = 0.05
    video_encoders: list[dict[str, Any]] | None = None
    custom_pipelines: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # A copy, which is cut below: the caller's own configuration object stays as it is.
        self.text_config = copy.deepcopy(XLM_ROBERTA_LARGE if self.text_config is None else self.text_config)
        if self.pooler_intermediate_size is None:
            self.pooler_intermediate_size = 4 * self.embed_dim
        if self.custom_pipelines is None:
            self.custom_pipelines = {
                "text-to-video-retrieval": {
                    "impl": "pipeline_mmp.TextToVideoRetrievalPipeline",
                    "pt": ["AutoModel"],
                    "type": "multimodal",
                }
            }
        super().__post_init__(**kwargs)
        _cut_layers(self.text_config, self.output_layer)

    @property
    def frozen_width(self) -> int:
        """Width of what the frozen layers of the text backbone give."""
        text: Any = self.text_config
        return output_width(text) if self.freeze_below == self.output_layer else text.hidden_size

    def to_dict(self) -> dict[str, Any]:
        output = super().to_dict()
        for task in output["custom_pipelines"].values():
            # `pipeline()` replaces the names in a loaded configuration by classes, which JSON cannot hold
            task["pt"] = [model if isinstance(model, str) else model.__name__ for model in task["pt"]]
        return output

    def validate_architecture(self) -> None:
        """Part of `@strict`'s validation: refuses shapes that cannot be built."""
        super().validate_architecture()
        text: Any = self.text_config  # a configuration by now
        if text.is_encoder_decoder or getattr(text, "is_decoder", False):
            raise PolyvidError(
                f"text_config: {text.model_type!r} has a decoder; MMP needs an encoder such as 'xlm-roberta'."
            )
        checked_encoders(self.video_encoders, "video_encoders")
        for name in ("output_layer", "embed_dim", "video_feature_dim", "pooler_num_layers", "pooler_num_heads"):
            if getattr(self, name) < 1:
                raise PolyvidError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.output_layer > text.num_hidden_layers:
            raise PolyvidError(
                f"output_layer={self.output_layer} is deeper than the backbone: "
                f"{text.model_type!r} has {text.num_hidden_layers} layers."
            )
        if not 0 <= self.freeze_below <= self.output_layer:
            raise PolyvidError(
                f"freeze_below={self.freeze_below} must lie between 0 (train all) and output_layer={self.output_layer}."
            )
        if self.video_pooler_num_layers is not None and (self.share_poolers or self.video_pooler_num_layers < 1):
            raise PolyvidError(
                f"video_pooler_num_layers must be at least 1, and unset with share_poolers=True; got "
                f"{self.video_pooler_num_layers} with share_poolers={self.share_poolers}."
            )
        if self.video_kernel_size is not None and self.video_kernel_size < 1:
            raise PolyvidError(f"video_kernel_size must be at least 1, or unset; got {self.video_kernel_size}.")
        if self.video_positions not in POSITIONS:
            raise PolyvidError(f"video_positions must be {' or '.join(POSITIONS)}, got {self.video_positions!r}.")
        if self.video_positions != "none" and self.image_feature_dim is not None:
            raise PolyvidError(
                f"video_positions={self.video_positions!r} needs image_feature_dim unset: an image's regions have no "
                "order."
            )
        if self.residual_pooling not in (None, "first", "last"):
            raise PolyvidError(f"residual_pooling must be first or last, or unset; got {self.residual_pooling!r}.")
        if self.lock_text and (self.freeze_below < self.output_layer or self.share_poolers):
            raise PolyvidError(
                f"lock_text=True freezes the whole text tower: it needs freeze_below={self.output_layer}, the output "
                f"layer, and a pooling head for text alone; got freeze_below={self.freeze_below} and "
                f"share_poolers={self.share_poolers}."
            )
        if self.embed_dim % self.pooler_num_heads:
            raise PolyvidError(
                f"embed_dim={self.embed_dim} is not divisible by pooler_num_heads={self.pooler_num_heads}."
            )
        if self.image_feature_dim is not None and self.image_feature_dim in (0, self.video_feature_dim):
            raise PolyvidError(
                f"image_feature_dim={self.image_feature_dim} must be positive and differ from video_feature_dim="
                f"{self.video_feature_dim}: the width of the features tells the two apart."
            )
        if not 0 <= self.pooler_dropout < 1:
            raise PolyvidError(f"pooler_dropout must be in [0, 1), got {self.pooler_dropout}.")
        if not 0 <= self.mask_ratio < 1:
            raise PolyvidError(f"mask_ratio must be in [0, 1), got {self.mask_ratio}.")
        if self.temperature <= 0:
            raise PolyvidError(f"temperature must be positive, got {self.temperature}.")


def _cut_layers(text_config: PreTrainedConfig, depth: int) -> None:
    """Keeps the first `depth` layers, also in what is listed per layer (ModernBERT's `layer_types`); works in place."""
    full_depth = text_config.num_hidden_layers
    if depth >= full_depth:
        return
    text_config.num_hidden_layers = depth
    for name in ("layer_types", "mlp_layer_types"):
        per_layer = getattr(text_config, name, None)
        if per_layer is not None and len(per_layer) == full_depth:
            setattr(text_config, name, per_layer[:depth])


__all__ = ["MMPConfig"]
