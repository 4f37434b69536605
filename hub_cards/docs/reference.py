"""The reference of the package: every command, recipe key and public class, taken from the source.

    python -m polyvid.hub_cards.docs.reference

Nothing in it is typed by hand: help texts, comments beside recipe keys and docstrings are the documentation, and a test
compares the file with what they say now.
"""

import ast
import dataclasses
import importlib
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.main import get_command

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train import recipe
from polyvid.train.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("modeling", "dataset_scripts", "train")
REFERENCE = Path(__file__).with_name("reference.md")


def render() -> str:
    """The whole reference as Markdown.

    Raises:
        PolyvidError: if a command, option, recipe key or public class is not documented; the message names it.
    """
    parts = [
        "# Reference",
        "Written by `python -m polyvid.hub_cards.docs.reference` from help texts and docstrings; do not edit.",
        "[Commands](#commands) · [Recipe keys](#recipe-keys) · [Classes](#classes)",
        "## Commands",
        *(command(name) for name in COMMANDS),
        "## Recipe keys",
        "In a recipe file (`train/configs/*.yaml`) or on the command line as `section.key=value`.",
        *(recipe_section(name, section) for name, section in _sections()),
        "## Classes",
        *(module(path) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def command(name: str) -> str:
    """Usage, first paragraph of the help, and a table of arguments and options."""
    target, function = COMMANDS[name].split(":")
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(getattr(importlib.import_module(target), function))
    built = get_command(app)
    rows = []
    for parameter in built.params:
        if parameter.name == "help":
            continue
        is_option = parameter.param_type_name == "option"
        shown = " / ".join(f"`{flag}`" for flag in parameter.opts + parameter.secondary_opts)
        shown = shown if is_option else f"`{parameter.name.upper()}`"
        if not parameter.help:
            raise PolyvidError(f"polyvid {name}: {parameter.name} has no help text.")
        needed = "required" if parameter.required else _default(parameter.default)
        rows.append(f"| {shown} | {needed} | {_cell(parameter.help)} |")
    table = ["| argument | default | |", "|---|---|---|", *rows]
    return f"### `polyvid {name}`\n\n{_paragraph(built.help or '', f'polyvid {name}')}\n\n" + "\n".join(table)


def recipe_section(name: str, section: type) -> str:
    """A table of the keys of one dataclass of `polyvid.train.recipe`, explained by the comments beside them."""
    comments = _comments_beside_fields(section)
    rows = []
    for field in dataclasses.fields(section):
        if dataclasses.is_dataclass(field.type):
            continue
        if field.name not in comments:
            raise PolyvidError(f"train/recipe.py: {section.__name__}.{field.name} has no comment beside it.")
        default = field.default_factory() if field.default is dataclasses.MISSING else field.default
        kind = (
            field.type.__name__ if isinstance(field.type, type) and not hasattr(field.type, "__args__") else field.type
        )
        needed = "required" if default == recipe.MISSING else f"`{default}`"
        rows.append(f"| `{name}{field.name}` | {_cell(str(kind))} | {needed} | {_cell(comments[field.name])} |")
    return "\n".join(["| key | type | default | |", "|---|---|---|---|", *rows])


def module(path: Path) -> str | None:
    """The public classes of a module, each with the arguments of `__init__` and its first paragraph."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    dotted = ".".join(("polyvid", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    entries = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            text = _paragraph(ast.get_docstring(node) or "", f"{dotted}.{node.name}")
            entries.append(f"- **`{node.name}{_signature(node)}`** {text}")
    if not entries:
        return None
    return f"### `{dotted}`\n\n{_paragraph(ast.get_docstring(tree) or '', dotted)}\n\n" + "\n".join(entries)


def _sections() -> Iterator[tuple[str, type]]:
    yield "", recipe.Recipe
    for field in dataclasses.fields(recipe.Recipe):
        if dataclasses.is_dataclass(field.type):
            yield f"{field.name}.", field.type


def _comments_beside_fields(section: type) -> dict[str, str]:
    """Field → comment at the end of its line, which `dataclasses` cannot see."""
    source = Path(recipe.__file__).read_text(encoding="utf-8")
    node = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == section.__name__)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
    return {field.target.id: comments[field.lineno] for field in fields if field.lineno in comments}


def _signature(node: ast.ClassDef) -> str:
    """The arguments of `__init__`, or the fields of a dataclass."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return f"({ast.unparse(item.args)})".replace("(self, ", "(").replace("(self)", "()")
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
        return "(" + ", ".join(field.target.id for field in fields) + ")"
    return ""


def _paragraph(text: str, owner: str) -> str:
    first = " ".join(text.split("\n\n")[0].split())
    if not first:
        raise PolyvidError(f"{owner} is not documented.")
    return first


def _default(value: object) -> str:
    if value is None or value is False or callable(value):
        return ""
    return f"`{', '.join(map(str, value)) if isinstance(value, list | tuple) else value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    REFERENCE.write_text(render(), encoding="utf-8")
    print(f"{REFERENCE} written")
