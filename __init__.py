"""Find videos with words, in any language.

Importing this package imports nothing else; a name is loaded when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from polyvid.modeling import MMPConfig, MMPModel, MMPProcessor, VideoIndex
    from polyvid.modeling.errors_mmp import PolyvidError
    from polyvid.train.loop.trainer import Trainer
    from polyvid.train.recipe import load_recipe
    from polyvid.train.scoring.evaluation import evaluate_retrieval

_HOMES = {
    "MMPConfig": "modeling",
    "MMPModel": "modeling",
    "MMPProcessor": "modeling",
    "PolyvidError": "modeling.errors_mmp",
    "Trainer": "train.loop.trainer",
    "VideoIndex": "modeling",
    "evaluate_retrieval": "train.scoring.evaluation",
    "load_recipe": "train.recipe",
}
__all__ = [
    "MMPConfig",
    "MMPModel",
    "MMPProcessor",
    "PolyvidError",
    "Trainer",
    "VideoIndex",
    "__version__",
    "evaluate_retrieval",
    "load_recipe",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value = _version()
    elif name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(f"polyvid.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'polyvid' has no attribute {name!r}")
    globals()[name] = value
    return value


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("polyvid")
    except PackageNotFoundError:  # a checkout that was never installed
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
