"""How the modules of the package may depend on each other, read from their imports."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import polyvid
from polyvid.train.cli import COMMANDS

ROOT = Path(polyvid.__file__).parent
ROOMS = ("modeling", "dataset_scripts", "train", "hub_cards")  # each may import those before it
FILES = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))
MODULES = {".".join(("polyvid", *file.relative_to(ROOT).with_suffix("").parts)): file for file in FILES}


def imports(module: str, at_import: bool = False) -> Iterator[tuple[str, int]]:
    """Modules of this package that `module` imports, with the line; `at_import`: without those inside of functions."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in _statements(tree, at_import):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name.startswith("polyvid"))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *filter(None, [base])])
            if base.split(".")[0] == "polyvid":
                for alias in node.names:
                    name = f"{base}.{alias.name}"
                    yield (name if name in MODULES else base), node.lineno


def _statements(node: ast.AST, at_import: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if at_import and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if at_import and isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _statements(child, at_import)


def room(module: str) -> int:
    """The number of its room; -1 for the root of the package, which imports nothing by itself."""
    parts = module.split(".")
    return ROOMS.index(parts[1]) if len(parts) > 1 and parts[1] in ROOMS else -1


def where(module: str, line: int) -> str:
    return f"{MODULES[module].relative_to(ROOT)}:{line}"


def test_rooms_import_only_those_below_them():
    upward = [
        f"{where(module, line)} imports {name}"
        for module in MODULES
        for name, line in imports(module)
        if room(name) > room(module)
    ]
    assert not upward


def test_modeling_is_flat_and_imports_only_its_siblings_relatively():
    """It is uploaded with a model, where no package is around it: transformers copies the files that are named."""
    for file in (ROOT / "modeling").rglob("*.py"):
        assert file.parent == ROOT / "modeling"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            place = f"{file.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("polyvid") for alias in node.names), place
            elif isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module and "." not in node.module, place
            elif isinstance(node, ast.ImportFrom):
                assert not str(node.module).startswith("polyvid"), place


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: {name for name, _ in imports(module, at_import=True) if name in MODULES} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_command_functions_are_imported_by_no_other_module():
    """The command line names them as strings; what two commands share is in a module of its own.

    The demo is not another command's code but a user of commands.
    """
    commands = {tuple(command.function.split(":")) for command in COMMANDS.values()}
    found = []
    for module, file in MODULES.items():
        if module.startswith("polyvid.train.demo."):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("polyvid"):
                names = [alias.name for alias in node.names if (node.module, alias.name) in commands]
                found += [f"{where(module, node.lineno)} imports the command {name}" for name in names]
    assert not found


def test_every_command_has_a_module_in_a_room():
    for name, command in COMMANDS.items():
        module, _, function = command.function.partition(":")
        tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
        assert any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body), name


def test_every_module_and_every_sub_package_begins_with_its_reason():
    silent = [name for name, file in MODULES.items() if not ast.get_docstring(ast.parse(file.read_text("utf-8")))]
    assert not silent
