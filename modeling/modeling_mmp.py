"""The multilingual multimodal Transformer of §3.1: a text tower and a video tower into one embedding space."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .backbone_mmp import layers_of, load_backbone, load_backbone_config, new_backbone, resume, run_frozen
from .configuration_mmp import MMPConfig
from .dual_encoder_mmp import output_width, take_apart
from .encoding_mmp import MMPEncodingMixin
from .errors_mmp import PolyvidError
from .inputs_mmp import backbone_mask, check_finite, check_same, checked_mask, checked_width
from .kernel_mmp import MMPKernelMap
from .losses_mmp import MMPObjective
from .outputs_mmp import MMPOutput
from .paths_mmp import check_local_path, refuse_pickled_weights
from .pooling_mmp import MMPPoolingHead, pool_plainly, sinusoidal_positions
from .sentence_transformer_files_mmp import write_sentence_transformer_files

if TYPE_CHECKING:  # never runs, but `save_pretrained` copies what is imported, and a saved model needs these beside it
    from .pipeline_mmp import TextToVideoRetrievalPipeline  # noqa: F401
    from .sentence_transformer_mmp import MMPInputModule  # noqa: F401


class MMPModel(MMPEncodingMixin, PreTrainedModel):
    """Text tower Φ and video tower Ψ of §3.1.

    Text: a multilingual encoder built only up to `config.output_layer`, a linear map to `embed_dim` if the widths
    differ, and a Transformer pooling head. Video: a linear map of the concatenated features of each second, and a
    pooling head of its own. Either embedding is the first output token of its head.

    The embeddings and layers 1 ... `config.freeze_below` of the backbone are frozen: no gradient, and no dropout in
    training, so that their output for a text is always the same and can be cached ([`encode_frozen_layers`]).
    """

    config: MMPConfig
    config_class = MMPConfig
    base_model_prefix = "mmp"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    # The pooling heads have these two ("eager" is always there). A text backbone may run another one:
    # attn_implementation={"": "sdpa", "text_config": "flash_attention_2"}.
    _supports_sdpa = True
    _no_split_modules = ["MMPPoolingLayer"]

    # §5.6: the layer that maps image features to video features learns at twice the rate of the rest.
    learning_rate_multipliers = {"image_projection": 2.0}

    def __init__(self, config: MMPConfig, text_model: PreTrainedModel | None = None):
        super().__init__(config)
        # `text_model` is for `from_backbone`. Nothing may be loaded here, where everything can be on the meta device.
        self.text_model = text_model or new_backbone(config.text_config)
        text_config: Any = config.text_config  # a configuration by now
        text_width, residual = output_width(text_config), config.residual_pooling is not None
        self.text_projection = (
            nn.Identity()
            if text_width == config.embed_dim and not residual
            else nn.Linear(text_width, config.embed_dim)
        )
        if config.video_kernel_size is not None:
            self.video_kernel = MMPKernelMap(config)
        self.video_projection = nn.Linear(
            config.video_kernel_size or config.video_feature_dim, config.embed_dim, bias=not residual
        )
        if config.image_feature_dim is not None:
            self.image_projection = nn.Linear(config.image_feature_dim, config.video_feature_dim)
        self.text_pooler = MMPPoolingHead(config, config.pooler_num_layers)
        if not config.share_poolers:
            depth = config.video_pooler_num_layers or config.pooler_num_layers
            self.video_pooler = MMPPoolingHead(config, depth)
        self.post_init()
        self.freeze()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Xavier's bounds, as in Vaswani et al.: an untrained head neither shrinks its input nor blows it up.
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is None:
                return
            if module is self.video_projection:
                # Not zero: features that are all zero would stay zero through every layer norm of the head, and each of
                # them multiplies the gradient of a zero vector by 300.
                init.normal_(module.bias, std=0.02)
            else:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """`PreTrainedModel.from_pretrained`, which makes all weights trainable, followed by [`freeze`].

        Pickled weights are not read, unless `use_safetensors=False` asks for them.

        Raises:
            PolyvidError: for a folder with pickled weights.
            FileNotFoundError: for a path at which there is nothing; the Hub is not asked.
        """
        if pretrained_model_name_or_path is not None:
            check_local_path(pretrained_model_name_or_path, "model")
            if kwargs.setdefault("use_safetensors", True):
                refuse_pickled_weights(pretrained_model_name_or_path)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).freeze()
        return loaded

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """`PreTrainedModel.save_pretrained`; what it writes is a model of sentence-transformers, too.

        With `push_to_hub`, the folder's name or `repo_id=` says where; other arguments as for `push_to_hub`.
        """
        for_hub = kwargs.keys() & {"repo_id", "commit_message", "private", "create_pr"}
        hub = {name: kwargs.pop(name) for name in for_hub}
        super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
        if is_main_process:
            write_sentence_transformer_files(save_directory)
            if push_to_hub:  # again from the start, because the call above would send what it has written and no more
                hub.setdefault("repo_id", os.path.basename(os.fspath(save_directory)))
                self.push_to_hub(token=kwargs.get("token"), **hub)

    @classmethod
    def from_backbone(cls, backbone: str, *, dtype: torch.dtype | str | None = None, **config_fields: Any) -> MMPModel:
        """A new model around a pre-trained text encoder; its projections and pooling heads start at random.

        Args:
            backbone: a folder written by `save_pretrained`, or a Hub id such as `"FacebookAI/xlm-roberta-large"`.
                Layers above `output_layer` are not loaded.
            dtype: of the weights; default float32.
            config_fields: fields of [`MMPConfig`] such as `output_layer`, `embed_dim`, `video_feature_dim`, and
                `attn_implementation`.

        Raises:
            PolyvidError: if the configuration does not fit the backbone, or weights are missing.
            OSError: if the backbone is not a folder and cannot be fetched from the Hub.
        """
        config = cls.config_class(text_config=load_backbone_config(backbone), **config_fields)
        text_model = load_backbone(backbone, config.text_config, dtype or torch.float32)
        # A published model must not show where the weights were on this disk.
        text_config: Any = config.text_config
        text_config._name_or_path = ""
        config.dtype = text_model.dtype
        model = cls(config, text_model)
        for name, module in model.named_children():
            if name != "text_model":
                module.to(text_model.dtype)
        return model.eval()

    @classmethod
    @torch.no_grad()
    def from_dual_encoder(cls, dual_encoder: PreTrainedModel, **config_fields: Any) -> MMPModel:
        """A new model that embeds texts and videos as a dual encoder does, until it is trained.

        The features of a second are the dual encoder's image embeddings. A text is embedded by its text tower and
        projection, a video as the mean of the unit vectors of its seconds; the pooling heads add nothing at first.

        Args:
            dual_encoder: loaded, in float32; its text tower becomes part of the new model.
            config_fields: fields of [`MMPConfig`]. By default the whole text tower is frozen; the joint space gives
                `embed_dim` and `video_feature_dim`, and no layer is left out.

        Raises:
            PolyvidError: for a model whose text tower is not known.
        """
        text_model, projection, pooling = take_apart(dual_encoder)
        depth, width = text_model.config.num_hidden_layers, projection.out_features
        shape = {"output_layer": depth, "embed_dim": width, "video_feature_dim": width, "residual_pooling": pooling}
        config = cls.config_class(text_config=text_model.config, **({"freeze_below": depth} | config_fields | shape))
        config.dtype = text_model.dtype
        text_config: Any = config.text_config
        text_config._name_or_path = ""
        model = cls(config, text_model)
        text_projection: Any = model.text_projection
        text_projection.weight.copy_(projection.weight)
        nn.init.zeros_(text_projection.bias)
        if projection.bias is not None:
            text_projection.bias.copy_(projection.bias)
        nn.init.eye_(model.video_projection.weight)
        model.text_pooler.start_as_nothing()
        if not config.share_poolers:
            model.video_pooler.start_as_nothing()
        return model.eval()

    def freeze(self) -> None:
        """Freezes the embeddings and the backbone's layers 1 ... `config.freeze_below`; all else is trained.

        With `config.lock_text` the projection and the pooling head of the text tower are frozen too.
        """
        self.requires_grad_(True)
        if self.config.freeze_below > 0:
            self.text_model.requires_grad_(False)
            for layer in self._trained_layers():
                layer.requires_grad_(True)
        if self.config.lock_text:
            self.text_projection.requires_grad_(False)
            self.text_pooler.requires_grad_(False)

    def train(self, mode: bool = True) -> MMPModel:
        super().train(mode)
        if self.config.freeze_below > 0:
            self.text_model.eval()
            for layer in self._trained_layers():
                layer.train(mode)
        if self.config.lock_text:
            self.text_pooler.eval()  # no dropout: what is frozen makes the same of a text every time
        return self

    def _trained_layers(self) -> list[nn.Module]:
        if self.config.freeze_below == self.config.output_layer:
            return []
        return list(layers_of(self.text_model))[self.config.freeze_below :]

    def enable_input_require_grads(self) -> None:
        """Does nothing: called with gradient checkpointing, it would drag the frozen layers into every backward pass.

        Only re-entrant checkpoints need it, which are refused.
        """

    def _set_gradient_checkpointing(self, enable: bool = True, **kwargs: Any) -> None:
        if enable and getattr(kwargs.get("gradient_checkpointing_func"), "keywords", {}).get("use_reentrant"):
            raise ValueError("use_reentrant=True would lose the gradient above the frozen layers: set it to False.")
        super()._set_gradient_checkpointing(enable, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    # ---- text ----

    @torch.no_grad()
    def encode_frozen_layers(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The output of the frozen layers, i.e. of layer `freeze_below`: (batch, tokens, hidden_size).

        It depends on nothing that is trained, so it can be computed once and passed to every method here as
        `frozen_hidden_states`. With `freeze_below == output_layer` it is the backbone's output, final norm included.

        Args:
            input_ids: (batch, tokens) integers.
            attention_mask: (batch, tokens), 1 = a token, 0 = padding, which must be on the right; default all ones.

        Raises:
            ValueError: for input that does not fit.
            PolyvidError: if nothing is frozen, or if the backbone cannot be resumed from the output of its frozen
                layers.
        """
        mask = checked_mask("attention_mask", attention_mask, "input_ids", input_ids)
        if self.config.freeze_below == 0:
            raise PolyvidError("freeze_below=0: no layer is frozen, there is nothing to cache.")
        if self.config.freeze_below == self.config.output_layer:
            return self.text_model(input_ids=input_ids, attention_mask=mask).last_hidden_state
        return run_frozen(self.text_model, self.config.freeze_below, input_ids, mask)

    def embed_tokens(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        frozen_hidden_states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """e_x: contextual embeddings of the tokens, (batch, tokens, embed_dim). Arguments as `get_text_features`."""
        if (input_ids is None) == (frozen_hidden_states is None):
            raise ValueError("Pass either input_ids or frozen_hidden_states.")
        if input_ids is not None:
            mask = checked_mask("attention_mask", attention_mask, "input_ids", input_ids, self.training)
            mask = backbone_mask(self.text_model, mask, self.training)
            hidden = self.text_model(input_ids=input_ids, attention_mask=mask).last_hidden_state
        else:
            frozen_hidden_states = checked_width(
                "frozen_hidden_states", frozen_hidden_states, "tokens", self.config.frozen_width
            )
            mask = checked_mask(
                "attention_mask", attention_mask, "frozen_hidden_states", frozen_hidden_states, self.training
            )
            hidden = frozen_hidden_states.to(self.video_projection.weight.dtype)
            if self.config.freeze_below < self.config.output_layer:
                mask = backbone_mask(self.text_model, mask, self.training)
                hidden = resume(self.text_model, self.config.freeze_below, hidden, mask)
        return self.text_projection(hidden)

    def pool_text(self, token_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """c_x from e_x: (batch, tokens, embed_dim) -> (batch, embed_dim)."""
        return self._with_plain_text(self.text_pooler(token_embeds, attention_mask), token_embeds, attention_mask)

    def pool_text_given_video(
        self,
        token_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        second_embeds: torch.Tensor,
        video_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """c_{x|v} from e_x and e_v (§3.3): query = e_x, key = value = e_x || e_v, in the text head."""
        if len(token_embeds) != len(second_embeds):
            raise ValueError(
                "A text is conditioned on its own video, so both batches must be equally long: got e_x of shape "
                f"{tuple(token_embeds.shape)} and e_v of shape {tuple(second_embeds.shape)}."
            )
        pooled = self.text_pooler(token_embeds, attention_mask, self._placed(second_embeds), video_mask)
        return self._with_plain_text(pooled, token_embeds, attention_mask)

    def _with_plain_text(
        self, pooled: torch.Tensor, token_embeds: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        if self.config.residual_pooling is None:
            return pooled
        return pool_plainly(token_embeds, attention_mask, self.config.residual_pooling) + pooled

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        frozen_hidden_states: torch.Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """c_x = Φ(x), the embeddings of texts (§3.1), not normalised.

        Args:
            input_ids: (batch, tokens) integers.
            attention_mask: (batch, tokens), 1 = a token, 0 = padding, which must be on the right; default all ones.
            frozen_hidden_states: (batch, tokens, hidden_size) from [`encode_frozen_layers`], instead of `input_ids`.

        Returns:
            `pooler_output` (batch, embed_dim) is c_x, and `last_hidden_state` (batch, tokens, embed_dim) is e_x, from
            which the pooling head made it. With `return_dict=False`, the tuple (e_x, c_x).

        Raises:
            ValueError: for shapes that do not fit and for a text without a single token.
        """
        token_embeds = self.embed_tokens(input_ids, attention_mask, frozen_hidden_states)
        pooled = self.pool_text(token_embeds, attention_mask)
        return BaseModelOutputWithPooling(last_hidden_state=token_embeds, pooler_output=pooled)

    def encode_text_given_video(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
        frozen_hidden_states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """c_{x|v}, the embeddings of texts conditioned on the videos they describe (§3.3): (batch, embed_dim).

        Arguments as in [`get_text_features`] and [`get_video_features`]. If c_x or c_v of the same batch are needed as
        well, call `embed_tokens` and `embed_seconds` once and then the three `pool_...` methods.
        """
        token_embeds = self.embed_tokens(input_ids, attention_mask, frozen_hidden_states)
        second_embeds = self.embed_seconds(video_features, video_mask)
        return self.pool_text_given_video(token_embeds, attention_mask, second_embeds, video_mask)

    # ---- video ----

    def embed_seconds(
        self, video_features: torch.Tensor | None, video_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """e_v: embeddings of a video's seconds, (batch, seconds, embed_dim). Arguments as `get_video_features`."""
        config = self.config
        video_features = checked_width(
            "video_features", video_features, "seconds", config.video_feature_dim, config.image_feature_dim
        )
        checked_mask("video_mask", video_mask, "video_features", video_features, self.training)
        check_finite("video_features", video_features, self.training)
        hidden = video_features.to(self.video_projection.weight.dtype)
        if hidden.shape[-1] != config.video_feature_dim:
            hidden = self.image_projection(hidden)
        if config.video_kernel_size is not None:
            hidden = self.video_kernel(hidden)
        return self.video_projection(hidden)

    def pool_video(self, second_embeds: torch.Tensor, video_mask: torch.Tensor | None = None) -> torch.Tensor:
        """c_v from e_v: (batch, seconds, embed_dim) -> (batch, embed_dim)."""
        pooler = self.text_pooler if self.config.share_poolers else self.video_pooler
        pooled: torch.Tensor = pooler(self._placed(second_embeds), video_mask)
        return (
            pooled if self.config.residual_pooling is None else pool_plainly(second_embeds, video_mask, "mean") + pooled
        )

    def _placed(self, second_embeds: torch.Tensor) -> torch.Tensor:
        """The seconds with their places added, if `config.video_positions` says so."""
        if self.config.video_positions == "none":
            return second_embeds
        length, width = second_embeds.shape[1:]
        return second_embeds + sinusoidal_positions(length, width, second_embeds.device).to(second_embeds.dtype)

    @can_return_tuple
    def get_video_features(
        self, video_features: torch.Tensor, video_mask: torch.Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """c_v = Ψ(v), the embeddings of videos (§3.1), not normalised.

        Args:
            video_features: (batch, seconds, video_feature_dim), one vector a second; or, for images, (batch, regions,
                image_feature_dim), which pass through `image_projection` first (§5.6).
            video_mask: (batch, seconds), 1 = real, 0 = padding, which must be on the right; default all ones.

        Returns:
            `pooler_output` (batch, embed_dim) is c_v, and `last_hidden_state` (batch, seconds, embed_dim) is e_v, from
            which the pooling head made it. With `return_dict=False`, the tuple (e_v, c_v).

        Raises:
            ValueError: for shapes that do not fit, a video of zero seconds, and NaN or infinity in the features.
        """
        second_embeds = self.embed_seconds(video_features, video_mask)
        pooled = self.pool_video(second_embeds, video_mask)
        return BaseModelOutputWithPooling(last_hidden_state=second_embeds, pooler_output=pooled)

    # ---- both ----

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
        frozen_hidden_states: torch.Tensor | None = None,
        noisy_input_ids: torch.Tensor | None = None,
        noisy_frozen_hidden_states: torch.Tensor | None = None,
        noisy_video_features: torch.Tensor | None = None,
        pivot_input_ids: torch.Tensor | None = None,
        pivot_attention_mask: torch.Tensor | None = None,
        pivot_frozen_hidden_states: torch.Tensor | None = None,
        noisy_pivot_input_ids: torch.Tensor | None = None,
        noisy_pivot_frozen_hidden_states: torch.Tensor | None = None,
        video_index: torch.Tensor | None = None,
        return_loss: bool = False,
        return_dict: bool = True,
    ) -> MMPOutput | tuple[Any, ...]:
        """Embeds all views of a batch that are given, and with `return_loss` computes the objective (Eq. 1-6).

        A clean view and its noised one have the same mask and go through their tower in one pass. With a pivot
        language and videos, the conditioned embeddings of Eq. 6 are computed too.

        Args:
            input_ids, attention_mask: texts x, as for [`get_text_features`]; without texts, only videos are embedded.
            video_features, video_mask: videos v, as for [`get_video_features`]; without, only texts are.
            noisy_input_ids, noisy_video_features: x^m and v^m, shaped and masked like the clean ones.
            pivot_input_ids, pivot_attention_mask, noisy_pivot_input_ids: captions y of the same videos in another
                language, (batch, pivot tokens).
            frozen_hidden_states, noisy_..., pivot_..., noisy_pivot_...: from [`encode_frozen_layers`], each instead of
                the `input_ids` with the same prefix.
            video_index: (batch,) integers, equal where two rows show the same video.
            return_loss: needs as many texts as videos; row i of one belongs to row i of the other.

        Raises:
            ValueError: for shapes that do not fit; the message names them.
        """
        text, token_embeds = self._text_views(
            attention_mask, input_ids, noisy_input_ids, frozen_hidden_states, noisy_frozen_hidden_states
        )
        pivot, pivot_token_embeds = self._text_views(
            pivot_attention_mask,
            pivot_input_ids,
            noisy_pivot_input_ids,
            pivot_frozen_hidden_states,
            noisy_pivot_frozen_hidden_states,
        )
        video, second_embeds = self._video_views(video_mask, video_features, noisy_video_features)
        if not text and not video:
            raise ValueError("Nothing to embed: pass input_ids (or frozen_hidden_states), video_features or both.")

        output = MMPOutput()
        for name, views in (("text", text), ("video", video), ("pivot", pivot)):
            for prefix, embeds in zip(("", "noisy_"), views, strict=False):
                output[f"{prefix}{name}_embeds"] = embeds
        if token_embeds is not None and pivot_token_embeds is not None and second_embeds is not None:
            output["text_given_video_embeds"] = self.pool_text_given_video(
                token_embeds, attention_mask, second_embeds, video_mask
            )
            output["pivot_given_video_embeds"] = self.pool_text_given_video(
                pivot_token_embeds, pivot_attention_mask, second_embeds, video_mask
            )
        if text and video:
            similarity = F.normalize(text[0].float(), dim=-1) @ F.normalize(video[0].float(), dim=-1).T
            output["logits_per_text"] = similarity / self.config.temperature
            output["logits_per_video"] = output["logits_per_text"].T
        if return_loss:
            shapes = {name: tuple(embeds.shape) for name, embeds in output.items() if name.endswith("_embeds")}
            if not (text and video) or len(set(shapes.values())) > 1:
                raise ValueError(f"return_loss needs as many texts as videos; got embeddings of shapes {shapes}.")
            terms = MMPObjective(temperature=self.config.temperature)(output, video_index)
            output["loss"] = terms.pop("loss")
            output["loss_terms"] = terms
        return output if return_dict else output.to_tuple()

    def _text_views(
        self,
        mask: torch.Tensor | None,
        ids: torch.Tensor | None,
        noisy_ids: torch.Tensor | None,
        states: torch.Tensor | None,
        noisy_states: torch.Tensor | None,
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """[c_x, c_x of the noised view if there is one], and e_x of the clean one."""
        clean = states if ids is None else ids
        noisy = noisy_states if noisy_ids is None else noisy_ids
        if clean is None:
            return [], None
        if noisy is None:
            token_embeds = self.embed_tokens(ids, mask, states)
            return [self.pool_text(token_embeds, mask)], token_embeds
        check_same("the noised texts", noisy.shape[:2], "the clean ones", clean.shape[:2])
        if (ids is None) == (noisy_ids is None):
            both = torch.cat([clean, noisy])
            token_embeds = self.embed_tokens(*((None, _twice(mask), both) if ids is None else (both, _twice(mask))))
        else:  # one of them cached, the other not
            token_embeds = torch.cat(
                [self.embed_tokens(ids, mask, states), self.embed_tokens(noisy_ids, mask, noisy_states)]
            )
        return list(self.pool_text(token_embeds, _twice(mask)).chunk(2)), token_embeds[: len(clean)]

    def _video_views(
        self, mask: torch.Tensor | None, features: torch.Tensor | None, noisy_features: torch.Tensor | None
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """[c_v, c_v of the noised view if there is one], and e_v of the clean one."""
        if features is None:
            return [], None
        if noisy_features is None:
            second_embeds = self.embed_seconds(features, mask)
            return [self.pool_video(second_embeds, mask)], second_embeds
        check_same("the noised videos", noisy_features.shape, "the clean ones", features.shape)
        second_embeds = self.embed_seconds(torch.cat([features, noisy_features]), _twice(mask))
        return list(self.pool_video(second_embeds, _twice(mask)).chunk(2)), second_embeds[: len(features)]


def _twice(mask: torch.Tensor | None) -> torch.Tensor | None:
    return None if mask is None else torch.cat([mask, mask])
