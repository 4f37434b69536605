"""Reading pickles that people publish, without running what a pickle can run.

A pickle is a program: it may call any function that can be imported. Here it may name only what numpy writes for
arrays, and even that is not numpy's own: stand-ins take shape, type and bytes, and the array is made from these. So
nothing but arrays, numbers, texts, bytes, lists, tuples, sets and dicts can come out, whatever the file says.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from polyvid.modeling.errors_mmp import PolyvidError

KINDS = "biufcSU"
"""Arrays of truth values, numbers and texts. Arrays of objects could hold anything."""

MALFORMED = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    LookupError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a damaged pickle makes the reader raise."""


def load_pickle(path: Path, encoding: str = "ASCII") -> Any:
    """The content of a pickle, of any protocol, written with any numpy.

    The whole file is read into memory.

    Args:
        path: the file.
        encoding: of texts in pickles of Python 2.

    Raises:
        FileNotFoundError: if there is no such file.
        PolyvidError: if the pickle is damaged, or asks for anything but arrays and plain containers.
    """
    try:
        with open(path, "rb") as file:
            return _plain(_Unpickler(file, encoding=encoding).load())
    except _Refused as refused:
        raise PolyvidError(
            f"{path} asks for {refused}, which could run a program: only dicts, lists and numpy arrays are read, and "
            "nothing was run. Ask its authors for another file."
        ) from None
    except MALFORMED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PolyvidError(f"{path} is not a whole pickle of arrays ({reason}): download it again.") from None


class _Refused(Exception):
    """What a pickle asked for."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        core = module.replace("numpy._core.", "numpy.core.")  # the names of numpy 2 and of numpy 1
        if (core, name) not in STAND_INS:
            raise _Refused(f"{module}.{name}")
        return _Callable(STAND_INS[core, name])


class _Callable:
    """Something a pickle may call, but not change."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]):
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise TypeError(f"it changes {name}")


class _Type:
    """Stands for `numpy.dtype`: the type of an array's elements."""

    __slots__ = ("dtype",)

    def __init__(self, name: str, *_: Any):
        self.dtype = np.dtype(str(name))
        if self.dtype.kind not in KINDS:
            raise _Refused(f"an array of {self.dtype}")

    def __setstate__(self, state: tuple) -> None:
        byte_order, fields = state[1], state[2:5]
        if any(field is not None for field in fields):
            raise _Refused("an array of records")
        self.dtype = self.dtype.newbyteorder(byte_order)


class _Array:
    """Stands for `numpy.ndarray`."""

    __slots__ = ("array",)

    def __setstate__(self, state: tuple) -> None:
        _, shape, of_elements, is_fortran, raw = state
        self.array = _array(raw, of_elements, shape, "F" if is_fortran else "C")


def _array(raw: Any, of_elements: Any, shape: tuple[int, ...], order: str = "C") -> np.ndarray:
    if not isinstance(of_elements, _Type):
        raise TypeError("an array without a type")
    raw = raw.encode("latin1") if isinstance(raw, str) else raw  # of Python 2
    return np.frombuffer(raw, of_elements.dtype).reshape(shape, order="F" if order == "F" else "C")


def _scalar(of_elements: Any, raw: Any) -> Any:
    return _array(raw, of_elements, ()).item()


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes for readers of Python 2."""
    if encoding != "latin1":
        raise _Refused(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


def _never(*_: Any) -> Any:
    raise TypeError("it makes an array by hand")


STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _never,  # it is named as the class of an array, and not called
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): lambda raw, of_elements, shape, order: _array(
        raw, of_elements, shape, order
    ),
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("__builtin__", "set"): set,
    ("__builtin__", "bytes"): lambda: b"",  # how empty bytes are written for Python 2
    ("__builtin__", "frozenset"): frozenset,
}


def _plain(content: Any) -> Any:
    """The content with arrays in place of what stands for them."""
    if isinstance(content, _Array):
        return content.array
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(_plain(value) for value in content)
    if isinstance(content, _Callable | _Type):
        raise TypeError("it holds a type of numpy by itself")
    return content
