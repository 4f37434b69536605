"""Checks of an MMPModel's input, and their error messages.

Shapes are always checked. Values are checked where that is cheap: not under `torch.compile` and `torch.export`, which
have no values, and in training only on a CPU, because reading an accelerator's memory waits for all its queued work.
There, NaN in the input makes the loss NaN, which is noticed without waiting.

Features of the wrong width or with NaN are a user's to put right: `PolyvidError`. Masks and shapes that do not fit each
other come from the calling code: `ValueError`.
"""

import torch
from transformers import PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask

from .errors_mmp import PolyvidError


def checked_mask(
    name: str, mask: torch.Tensor | None, of: str, values: torch.Tensor, training: bool = False
) -> torch.Tensor:
    """The mask of `values` (batch, length, ...), all ones by default; in every row the first position must be real."""
    if mask is None:
        mask = torch.ones(values.shape[:2], dtype=torch.long, device=values.device)
    if mask.shape != values.shape[:2]:
        raise ValueError(f"{name} {tuple(mask.shape)} does not fit {of} {tuple(values.shape)}.")
    if 0 in mask.shape:
        raise ValueError(f"{of} is empty: its shape is {tuple(values.shape)}.")
    if _may_look_at(mask, training):
        rows = (mask[:, 0] == 0).nonzero().flatten().tolist()
        if rows:
            raise ValueError(
                f"{name} {tuple(mask.shape)} starts with padding in row {_shown(rows)}: there is nothing to embed, or "
                "it is padded on the left. Every row needs a real first position and its padding on the right."
            )
    return mask


def checked_width(name: str, values: torch.Tensor | None, positions: str, *widths: int | None) -> torch.Tensor:
    """`values`, if they are (batch, positions, one of `widths`); widths that are `None` do not count."""
    allowed = [width for width in widths if width is not None]
    if values is None or values.ndim != 3 or values.shape[-1] not in allowed:
        expected = " or ".join(map(str, allowed))
        got = "nothing" if values is None else tuple(values.shape)
        raise PolyvidError(f"{name} must be (batch, {positions}, {expected}), got {got}.")
    return values


def check_finite(name: str, values: torch.Tensor, training: bool = False) -> None:
    """No NaN and no infinity: one such number makes a whole batch's loss NaN."""
    if not _may_look_at(values, training):
        return
    finite = values.detach().isfinite().flatten(1).all(1)
    if not finite.all():
        rows = (~finite).nonzero().flatten().tolist()
        raise PolyvidError(f"{name} {tuple(values.shape)} holds NaN or infinity in row {_shown(rows)}.")


def backbone_mask(backbone: PreTrainedModel, mask: torch.Tensor, training: bool) -> torch.Tensor:
    """The mask to call the backbone with: (batch, tokens), or its expanded form where its values must not be read.

    Transformers reads a mask to see if it is all ones and can be left out; it does not read an expanded one. Only those
    backbones get an expanded mask that attend everywhere and use the mask for nothing else.
    """
    config = backbone.config
    plain = config.model_type in ("bert", "xlm-roberta") and config._attn_implementation in ("sdpa", "eager")
    if _may_look_at(mask, training) or torch.compiler.is_compiling() or not plain:
        return mask
    like = torch.empty(*mask.shape, 0, dtype=backbone.dtype, device=mask.device)
    return create_bidirectional_mask(config, like, mask, allow_is_bidirectional_skip=False)


def check_same(what: str, shape: torch.Size, other: str, other_shape: torch.Size) -> None:
    if shape != other_shape:
        raise ValueError(f"{what} must be shaped like {other}: got {tuple(shape)} and {tuple(other_shape)}.")


def _may_look_at(values: torch.Tensor, training: bool) -> bool:
    return not torch.compiler.is_compiling() and (values.device.type == "cpu" or not training)


def _shown(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
