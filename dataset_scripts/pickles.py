"""Reading pickles that people publish, without running what a pickle can run.

A pickle is a program: it may call any function that can be imported. Here it may name only what numpy writes for
arrays, and even that is not numpy's own: stand-ins take shape, type and bytes, and the array is made from these. So
nothing but arrays, numbers, texts, bytes, lists, tuples, sets and dicts can come out, whatever the file says.
"""

import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from polyvid.modeling.errors_mmp import PolyvidError

KINDS = "biufcSU"
"""Arrays of truth values, numbers and texts. Arrays of objects could hold anything."""

LEVELS = 100
"""Of tuples within tuples. Python's hash of a key with a million levels ends the interpreter."""

DEEPER = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ")
"""Instructions that put something hashable around what they take."""

SPARE_SLOTS = 1000
"""By which the number of a memo may be ahead of their count. The reader takes memory for all numbers below it."""

PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, np.ndarray)

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
            _check_shape(file)
            file.seek(0)
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
        return {_plain(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple | set | frozenset):
        return type(content)(_plain(value) for value in content)
    if type(content) not in PLAIN:
        raise TypeError("it holds a type or a function of numpy by itself")
    return content


def _check_shape(file: IO[bytes]) -> None:
    """Follow the instructions of a pickle without carrying them out: how deep are its tuples, how large its memo?

    Raises:
        ValueError: for too many levels, or a memo whose number is far ahead.
        IndexError, KeyError: if instructions take more than there is.
    """
    stack: list[int] = []  # of each object how many levels of hashable containers it has at most
    marks: list[int] = []
    memo: dict[int, int] = {}
    for instruction, argument, _ in pickletools.genops(file):
        name, index = instruction.name, argument if isinstance(argument, int) else 0
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            number = len(memo) if name == "MEMOIZE" else index
            if number > len(memo) + SPARE_SLOTS:
                raise ValueError(f"memo {number} where {len(memo)} are known")
            memo[number] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[index])
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            before = instruction.stack_before
            taken: list[int] = []
            if pickletools.markobject in before:
                start = marks.pop()
                taken = stack[start:]
                del stack[start:]
                before = before[: before.index(pickletools.markobject)]
            taken += [stack.pop() for _ in before]
            levels = max(taken, default=0) + (name in DEEPER)
            if levels > LEVELS:
                raise ValueError(f"more than {LEVELS} levels of tuples")
            stack += [levels for _ in instruction.stack_after]
