"""The Transformer pooling head of §3.1, plain and conditioned on a video (§3.3)."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_mmp import MMPConfig


def sinusoidal_positions(length: int, width: int, device: torch.device | None = None) -> torch.Tensor:
    """The positional encoding of Vaswani et al. (2017, §3.5): (length, width) float32.

    Column 2i is the sine and column 2i + 1 the cosine of position / 10000^(2i / width).
    """
    columns = torch.arange(0, width, 2, device=device)
    angles = torch.arange(length, device=device)[:, None] * 10_000.0 ** (-columns / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


class MMPPoolingAttention(nn.Module):
    """Multi-head attention with queries from one sequence and keys = values from another.

    Torch's own `scaled_dot_product_attention` chooses the kernel (flash and memory-efficient ones included); with
    `attn_implementation="eager"` the same attention is written out.
    """

    def __init__(self, config: MMPConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.pooler_num_heads
        self.dropout = config.pooler_dropout
        self.q_proj = nn.Linear(config.embed_dim, config.embed_dim)
        self.k_proj = nn.Linear(config.embed_dim, config.embed_dim)
        self.v_proj = nn.Linear(config.embed_dim, config.embed_dim)
        self.out_proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, query: torch.Tensor, key_value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        # (batch, length, embed_dim) -> (batch, heads, length, head_dim)
        q = self.q_proj(query).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k = self.k_proj(key_value).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        v = self.v_proj(key_value).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        if mask is not None:
            mask = mask[:, None, None, :]  # (batch, 1, 1, key length), True = attend
        dropout = self.dropout if self.training else 0.0
        if self.config._attn_implementation == "eager":
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            if mask is not None:
                scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
            attended = F.dropout(scores.softmax(-1, dtype=torch.float32).to(v.dtype), dropout) @ v
        else:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class MMPPoolingLayer(GradientCheckpointingLayer):
    """One layer of Vaswani et al. (2017): post-norm, ReLU; dropout where `nn.TransformerEncoderLayer` has it."""

    def __init__(self, config: MMPConfig):
        super().__init__()
        self.attention = MMPPoolingAttention(config)
        self.attention_norm = nn.LayerNorm(config.embed_dim)
        width = config.pooler_intermediate_size or 4 * config.embed_dim
        self.intermediate = nn.Linear(config.embed_dim, width)
        self.output = nn.Linear(width, config.embed_dim)
        self.output_norm = nn.LayerNorm(config.embed_dim)
        self.dropout = nn.Dropout(config.pooler_dropout)

    def forward(self, query: torch.Tensor, key_value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        hidden = self.attention_norm(query + self.dropout(self.attention(query, key_value, mask)))
        expanded = self.dropout(F.relu(self.intermediate(hidden)))
        return self.output_norm(hidden + self.dropout(self.output(expanded)))


class MMPPoolingHead(nn.Module):
    """Trans^(L): a stack of Transformer layers whose first output token is the embedding (§3.1).

    No positional embedding (App. C): the output does not depend on the order of what follows the first position, unless
    the model adds [`sinusoidal_positions`]. With `context` it is the conditioned head of §3.3: query = e_x and
    key = value = e_x || e_v. We apply the extension in every layer: layer l attends from the text's hidden
    states to those same states followed by e_v, which itself is not transformed by the text head.

    Only the first output token of the last layer is used, so only that one is computed: the same result for a fraction
    of the work.
    """

    MEAN_GAIN = 32.0

    def __init__(self, config: MMPConfig, num_layers: int):
        super().__init__()
        self.layers = nn.ModuleList([MMPPoolingLayer(config) for _ in range(num_layers)])

    @torch.no_grad()
    def start_as_mean(self) -> None:
        """Sets the weights so that the head pools by the mean over all positions, up to a layer norm, until trained.

        An option beyond the paper, which starts at random. Queries are zero, so that attention is uniform; values and
        outputs pass unchanged; feed-forward parts add nothing. The first layer scales what attention gives by
        `MEAN_GAIN`: it outweighs the position's own embedding, which the residual connection adds and which the
        following norm keeps in proportion.
        """
        layer: Any
        for depth, layer in enumerate(self.layers):
            attention = layer.attention
            for linear in (attention.q_proj, attention.v_proj, attention.out_proj, layer.output):
                nn.init.zeros_(linear.bias)
            nn.init.zeros_(attention.q_proj.weight)
            nn.init.eye_(attention.v_proj.weight)
            nn.init.eye_(attention.out_proj.weight).mul_(self.MEAN_GAIN if depth == 0 else 1.0)
            nn.init.zeros_(layer.output.weight)

    @torch.no_grad()
    def start_as_nothing(self) -> None:
        """Sets the weights so that the head gives zeros until trained, for `MMPConfig.residual_pooling`.

        What the last layer norm multiplies with is zero; below it, the head is a mean.
        """
        self.start_as_mean()
        layer: Any = self.layers[-1]
        nn.init.zeros_(layer.output_norm.weight)
        nn.init.zeros_(layer.output_norm.bias)

    def forward(
        self,
        embeds: torch.Tensor,
        mask: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
        context_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Pools `embeds` (batch, length, embed_dim) to (batch, embed_dim).

        `mask` (batch, length) and `context_mask` (batch, context length) are not 0 where a position is real; `None`
        means that all positions are. `context` is (batch, context length, embed_dim).
        """
        if context is not None and (mask is not None or context_mask is not None):
            mask = embeds.new_ones(embeds.shape[:2]) if mask is None else mask
            context_mask = context.new_ones(context.shape[:2]) if context_mask is None else context_mask
            mask = torch.cat([mask.bool(), context_mask.bool()], dim=1)
        mask = None if mask is None else mask.bool()
        hidden = embeds
        for depth, layer in enumerate(self.layers, start=1):
            key_value = hidden if context is None else torch.cat([hidden, context], dim=1)
            hidden = layer(hidden[:, :1] if depth == len(self.layers) else hidden, key_value, mask)
        return hidden[:, 0]


def pool_plainly(embeds: torch.Tensor, mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """Pools without weights: (batch, length, embed_dim) -> (batch, embed_dim).

    Args:
        embeds: of tokens or seconds.
        mask: (batch, length), not 0 where a position is real; default: all are.
        pooling: `"first"` or `"last"`, the unit vector of that real position; `"mean"`, the mean of all unit vectors.
    """
    mask = embeds.new_ones(embeds.shape[:2]) if mask is None else mask
    if pooling == "mean":
        real = mask.bool()[..., None].to(embeds.dtype)
        return (_unit(embeds) * real).sum(1) / real.sum(1)
    position = mask.bool().sum(1) - 1 if pooling == "last" else mask.new_zeros(len(mask), dtype=torch.long)
    return _unit(embeds.gather(1, position[:, None, None].expand(-1, 1, embeds.shape[2]))[:, 0])


def _unit(embeds: torch.Tensor) -> torch.Tensor:
    """Vectors of length 1; zeros stay zeros, with a gradient that is no infinity."""
    length = torch.linalg.vector_norm(embeds, dim=-1, keepdim=True)
    return embeds / torch.where(length > 0, length, 1.0)
