"""Recipe files: which there are, and reading them as data only.

A recipe may come from a stranger: it reads no environment variables, calls no resolvers of OmegaConf, and is based on
nothing outside its own folders. A value may refer to another key (`${name}`).
"""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from polyvid.modeling.errors_mmp import PolyvidError

CONFIGS = Path(__file__).parent / "configs"  # the recipes that ship
OTHER_CONFIGS = ("ablation", "accelerate")  # folders there that hold grids and launch settings


class RecipeError(PolyvidError):
    """A recipe that cannot be run; the message names file and key."""


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe: `name` itself, or what ships under that name (`"demo/mmp"`).

    Raises:
        RecipeError: if it is neither; lists what ships.

    >>> find_recipe("demo/mmp").name
    'mmp.yaml'
    """
    if Path(name).is_file():
        return Path(name)
    if (shipped := find_shipped(name)) and shipped.relative_to(CONFIGS).parts[0] not in OTHER_CONFIGS:
        return shipped
    known = shipped_recipes()
    nearest = difflib.get_close_matches(str(name), known, n=1)
    raise RecipeError(
        f"There is no recipe {name}, neither a file nor one that ships"
        + (f"; did you mean {nearest[0]}?" if nearest else ".")
        + f" These ship: {' '.join(known)}."
    )


def find_shipped(name: str | Path) -> Path | None:
    """The file below `configs/` of this name, written with or without `.yaml`; None if there is none."""
    file = (CONFIGS / name).with_name(f"{Path(name).name.removesuffix('.yaml')}.yaml")
    return file if file.is_file() and file.is_relative_to(CONFIGS) and ".." not in Path(name).parts else None


def shipped_recipes() -> list[str]:
    """Names of all recipes that ship, as `find_recipe` takes them."""
    files = (file.relative_to(CONFIGS) for file in CONFIGS.rglob("*.yaml"))
    return sorted(file.with_suffix("").as_posix() for file in files if file.parts[0] not in OTHER_CONFIGS)


def files_of(path: Path) -> list[tuple[Path, DictConfig]]:
    """The recipe and its bases with their contents, the most basic one first."""
    first = path.resolve()
    here = Path.cwd()
    trees = [here if first.is_relative_to(here) else first.parent, CONFIGS.resolve()]
    chain: list[tuple[Path, DictConfig]] = []
    while True:
        content = _read(path)
        chain.append((path, content))
        if "base" not in content:
            return chain[::-1]
        base = content.pop("base")
        if not isinstance(base, str):
            raise RecipeError(f"{path}: base is {base!r}, but must be the file of another recipe or a name that ships.")
        file = path.parent / base
        file = file if file.is_file() else find_shipped(base) or file
        if not any(file.resolve().is_relative_to(tree) for tree in trees):
            raise RecipeError(f"{path}: base {base!r} is outside of {trees[0]}; copy that recipe there.")
        if not file.is_file():
            raise RecipeError(f"There is no recipe {file} (the base of {path}).")
        if any(file.samefile(known) for known, _ in chain):
            raise RecipeError(f"{file} is based on itself.")
        path = file


def _read(path: Path) -> DictConfig:
    try:
        content = OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except OmegaConfBaseException as error:
        raise RecipeError(f"{path}: {in_one_line(error)}") from None
    except OSError as error:
        if error.errno is None:  # OmegaConf's word for a file that holds a number or a text
            raise RecipeError(f"{path} is not a recipe: it holds no keys.") from None
        raise
    if not isinstance(content, DictConfig):
        raise RecipeError(f"{path} is not a recipe: it holds no keys.")
    refuse_resolvers(str(path), content)
    return content


def refuse_resolvers(source: str, content: DictConfig) -> None:
    """Resolvers read the environment and run code; only references to other keys are left."""
    for key, value in _values(OmegaConf.to_container(content, resolve=False)):
        if _calls_resolver(value):
            raise RecipeError(
                f"{source}: {key} is {value!r}, but recipes may refer only to their own keys, as ${{name}}."
            )


def _values(node: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested dictionaries and lists, keys included, with the dotted key it belongs to."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}", str(key)
            yield from _values(value, f"{prefix}{key}.")
    elif isinstance(node, list):
        for value in node:
            yield from _values(value, prefix)
    elif isinstance(node, str):
        yield prefix.removesuffix("."), node


def _calls_resolver(text: str) -> bool:
    """Whether there is a colon inside of `${...}`, at any depth: `${oc.env:X}`, but also `${${a}.b:X}`."""
    depth = 0
    for token in re.findall(r"\$\{|\}|:", text):
        if token == ":":
            if depth:
                return True
        else:
            depth = depth + 1 if token == "${" else max(depth - 1, 0)
    return False


def in_one_line(error: OmegaConfBaseException) -> str:
    """OmegaConf's message, which goes over several lines, with the key it is about."""
    message = str(error).splitlines()[0]
    return f"{error.full_key}: {message}" if error.full_key else message
