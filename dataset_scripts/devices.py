"""The device that a command's networks run on."""

from polyvid.modeling.errors_mmp import PolyvidError


def find_device(name: str | None = None) -> str:
    """`name`, or by default the GPU if there is one, else the CPU.

    Raises:
        PolyvidError: if this machine has no device of that name.

    >>> find_device("cpu")
    'cpu'
    """
    import torch  # takes seconds

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises any of these
        why = " ".join(str(error).split())[:200]
        raise PolyvidError(f"This machine has no device {name!r} ({why}): choose cpu, or cuda, or cuda:1.") from error
    return name
