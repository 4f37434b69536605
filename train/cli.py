"""The command `polyvid`: one name for each command function of the package, imported when it is called."""

import ast
import difflib
import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

import typer

COMMANDS = {
    "build": "polyvid.dataset_scripts.build:build",
    "join": "polyvid.dataset_scripts.join:join",
    "statistics": "polyvid.dataset_scripts.statistics:statistics",
    "translate": "polyvid.dataset_scripts.translate:translate",
    "coverage": "polyvid.dataset_scripts.coverage:coverage",
    "regions": "polyvid.dataset_scripts.multi30k.regions:regions",
    "convert-backbone": "polyvid.train.extraction.convert:convert_backbone",
    "extract": "polyvid.train.extraction.extract:extract",
    "import-features": "polyvid.train.extraction.import_features:import_features",
    "train": "polyvid.train.train:main",
    "evaluate": "polyvid.train.scoring.evaluate:evaluate",
    "compare": "polyvid.train.scoring.evaluate:compare",
    "tables": "polyvid.train.scoring.tables:tables",
    "ablate": "polyvid.train.scoring.ablation:ablate",
    "demo-app": "polyvid.hub_cards.space.build:demo_app",
    "index": "polyvid.train.search.commands:index",
    "search": "polyvid.train.search.commands:search",
    "contact-sheet": "polyvid.train.scoring.contact_sheet:contact_sheet",
    "push": "polyvid.hub_cards.publish.push:push",
}


def main() -> None:
    """Run `polyvid NAME ...`; what users can put right is said in one line, with exit code 1."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
        return
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.0)[0]
        print(
            f"error: there is no command {name!r}; did you mean {nearest!r}? `polyvid --help` lists all.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    module, function = COMMANDS[name].split(":")
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    try:
        app.command()(getattr(importlib.import_module(module), function))
        app(args=arguments, prog_name=f"polyvid {name}")
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None


def overview() -> str:
    """All commands with the first sentence of their help, read without importing them: that would take seconds."""
    width = max(map(len, COMMANDS))
    lines = ["Find videos with words, in any language. `polyvid COMMAND --help` explains a command.", ""]
    for name, target in COMMANDS.items():
        module, function = target.split(":")
        source = ast.parse(Path(find_spec(module).origin).read_text(encoding="utf-8"))
        node = next(n for n in source.body if isinstance(n, ast.FunctionDef) and n.name == function)
        lines.append(f"  {name:{width}}  {' '.join(ast.get_docstring(node).split(chr(10) * 2)[0].split())}")
    return "\n".join(lines)


if __name__ == "__main__":  # `accelerate launch -m polyvid.train.cli extract ...`
    main()
