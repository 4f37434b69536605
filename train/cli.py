"""The command `mmp`: one name for each command function of the package, imported when it is called."""

import importlib
import sys

import click
import typer

COMMANDS = {
    "build": "mmp.dataset_scripts.build:build",
    "join": "mmp.dataset_scripts.join:join",
    "statistics": "mmp.dataset_scripts.statistics:statistics",
    "translate": "mmp.dataset_scripts.translate:translate",
    "coverage": "mmp.dataset_scripts.coverage:coverage",
    "regions": "mmp.dataset_scripts.multi30k.regions:regions",
    "convert-backbone": "mmp.train.convert_backbone:convert_backbone",
    "extract": "mmp.train.extract:extract",
    "import-features": "mmp.train.import_features:import_features",
    "train": "mmp.train.train:main",
    "evaluate": "mmp.train.evaluate_command:evaluate",
    "compare": "mmp.train.evaluate_command:compare",
    "tables": "mmp.train.tables:tables",
    "ablate": "mmp.train.ablation:ablate",
    "contact-sheet": "mmp.train.contact_sheet:contact_sheet",
}


class LazyCommands(click.Group):
    """Most commands need torch, which takes seconds to import: only the one that is called is imported."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, function = COMMANDS[name].split(":")
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name)(getattr(importlib.import_module(module), function))
        return typer.main.get_command(app)


def main() -> None:
    """Run `mmp`; what users can put right is said in one line, with exit code 1."""
    commands = LazyCommands(name="mmp", help="Find videos with words, in any language.")
    try:
        commands()
    except (ValueError, OSError, ImportError) as error:
        message = " ".join(str(error).split())
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(1) from None
