"""What an MMPModel refuses, and in which words.

Shapes are always checked; values are not where they cannot be looked at (`torch.compile`, `torch.export`).
"""

import torch


def checked_mask(name: str, mask: torch.Tensor | None, of: str, values: torch.Tensor) -> torch.Tensor:
    """The mask of `values` (batch, length, ...), all ones by default; in every row the first position must be real."""
    if mask is None:
        mask = torch.ones(values.shape[:2], dtype=torch.long, device=values.device)
    if mask.shape != values.shape[:2]:
        raise ValueError(f"{name} {tuple(mask.shape)} does not fit {of} {tuple(values.shape)}.")
    if 0 in mask.shape:
        raise ValueError(f"{of} is empty: its shape is {tuple(values.shape)}.")
    if not torch.compiler.is_compiling():
        rows = (mask[:, 0] == 0).nonzero().flatten().tolist()
        if rows:
            raise ValueError(
                f"{name} {tuple(mask.shape)} starts with padding in row {_shown(rows)}: there is nothing to embed, or "
                "it is padded on the left. Every row needs a real first position and its padding on the right."
            )
    return mask


def checked_width(name: str, values: torch.Tensor | None, positions: str, *widths: int | None) -> torch.Tensor:
    """`values`, if they are (batch, positions, one of `widths`); a width of `None` is not to be had."""
    allowed = [width for width in widths if width is not None]
    if values is None or values.ndim != 3 or values.shape[-1] not in allowed:
        expected = " or ".join(map(str, allowed))
        got = "nothing" if values is None else tuple(values.shape)
        raise ValueError(f"{name} must be (batch, {positions}, {expected}), got {got}.")
    return values


def check_finite(name: str, values: torch.Tensor) -> None:
    """No NaN and no infinity: one such number makes a whole batch's loss NaN."""
    if torch.compiler.is_compiling():
        return
    finite = values.detach().isfinite().flatten(1).all(1)
    if not finite.all():
        rows = (~finite).nonzero().flatten().tolist()
        raise ValueError(f"{name} {tuple(values.shape)} holds NaN or infinity in row {_shown(rows)}.")


def check_same(what: str, shape: torch.Size, other: str, other_shape: torch.Size) -> None:
    if shape != other_shape:
        raise ValueError(f"{what} must be shaped like {other}: got {tuple(shape)} and {tuple(other_shape)}.")


def _shown(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
