"""The command `polyvid`. A command's module is imported when the command runs, so that help and errors come at once."""

import importlib
import os
import signal
import sys
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from polyvid.train.errors import explain

HELP_NAMES = {"help_option_names": ["-h", "--help"]}


@dataclass(frozen=True)
class Target:
    """Where a command is, what the overview says of it, and whether it resumes after it was stopped."""

    function: str  # module:name
    summary: str
    resumes: bool = False


COMMANDS = {
    "demo": Target("polyvid.train.demo.run:main", "Train and compare three models on embedded data.", True),
    "demo-app": Target("polyvid.hub_cards.space.build:demo_app", "Open the demo's models in a browser.", True),
    "fetch": Target("polyvid.dataset_scripts.fetch:fetch", "Get open packages of pictures, and make clips.", True),
    "build": Target("polyvid.dataset_scripts.build:build", "Build a dataset from its official files.", True),
    "statistics": Target("polyvid.dataset_scripts.statistics:statistics", "Count videos, subtitles and tokens.", True),
    "translate": Target("polyvid.dataset_scripts.translate:translate", "Translate a benchmark's captions.", True),
    "regions": Target("polyvid.dataset_scripts.multi30k.regions:regions", "Convert region features of Multi30K."),
    "convert-backbone": Target(
        "polyvid.train.extraction.convert:convert_backbone", "Convert an official R(2+1)D or S3D checkpoint."
    ),
    "extract": Target("polyvid.train.extraction.extract:extract", "Turn videos into feature shards.", True),
    "import-features": Target(
        "polyvid.train.extraction.import_features:import_features", "Turn features you have into feature shards."
    ),
    "coverage": Target("polyvid.dataset_scripts.coverage:coverage", "List videos of a benchmark without features."),
    "join": Target("polyvid.dataset_scripts.join:join", "Put features next to subtitles, for pre-training.", True),
    "check": Target("polyvid.train.data.check:check", "Look at your own captioned videos before training."),
    "train": Target("polyvid.train.train:main", "Train a model by a recipe.", True),
    "evaluate": Target("polyvid.train.scoring.evaluate:evaluate", "Search a benchmark in every language, with scores."),
    "compare": Target("polyvid.train.scoring.compare:compare", "Test whether two results differ by more than chance."),
    "tables": Target("polyvid.train.scoring.tables:tables", "Fill the paper's tables with your results."),
    "ablate": Target("polyvid.train.scoring.ablation:ablate", "Train and evaluate a grid of recipes.", True),
    "contact-sheet": Target(
        "polyvid.train.scoring.contact_sheet:contact_sheet", "Show what a model finds for captions in all languages."
    ),
    "index": Target("polyvid.train.search.commands:index", "Make a collection of videos searchable.", True),
    "search": Target("polyvid.train.search.commands:search", "Find videos, or moments of videos, with words."),
    "app": Target("polyvid.hub_cards.space.own_videos:app", "Search your own videos in a browser.", True),
    "plan": Target("polyvid.train.planning.command:plan_command", "Say what the paper's run takes, with formulas."),
    "verify": Target("polyvid.train.verifying.command:verify", "Find damaged files of datasets, indexes and models."),
    "push": Target("polyvid.hub_cards.publish.push:push", "Publish a model, dataset, metric or demo on the Hub.", True),
}


class LazyCommand(TyperCommand):
    """Stands for a command in the overview and in completion; the command itself is imported when it is called."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the real command, which from here on takes this one's part."""
        if "--debug" in args:  # people add it at the end
            args = [argument for argument in args if argument != "--debug"]
            _set_debug(True)
        command = load_command(str(self.name))
        _interruption.allow()
        return command.make_context(info_name, args, parent=parent, **extra)


def load_command(name: str) -> TyperCommand:
    """Import a command, with all its options.

    Raises:
        KeyError: if there is no command of that name.
    """
    module, _, function = COMMANDS[name].function.partition(":")
    app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=HELP_NAMES)
    app.command(name)(getattr(importlib.import_module(module), function))
    command = typer.main.get_command(app)
    assert isinstance(command, TyperCommand)
    return command


class Overview(TyperGroup):
    """The group of all commands."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        for name, target in COMMANDS.items():
            self.add_command(LazyCommand(name=name, short_help=target.summary, rich_markup_mode=None))


app = typer.Typer(cls=Overview, rich_markup_mode=None, context_settings=HELP_NAMES, invoke_without_command=True)


def _print_version(value: bool) -> None:
    if value:
        from polyvid import __version__

        typer.echo(f"polyvid {__version__}")
        raise typer.Exit


def _set_debug(value: bool) -> None:
    if value:
        os.environ["POLYVID_DEBUG"] = "1"  # also for processes that the command starts


@app.callback()
def overview(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", callback=_set_debug, help="Show the traceback of every error; same as POLYVID_DEBUG=1."
        ),
    ] = False,
) -> None:
    """Find videos with words, in any language. `polyvid COMMAND --help` explains a command."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


class _Interruption:
    """Ctrl-C while a command runs: KeyboardInterrupt, and a note of it, since libraries may raise their own instead."""

    happened = False

    def allow(self) -> None:
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # a shell sets that for a command in the background
            signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.happened = True
        raise KeyboardInterrupt


_interruption = _Interruption()


def main(arguments: list[str] | None = None) -> None:
    """Run `polyvid ARGUMENTS` (default: `sys.argv[1:]`) and end as a command does.

    Raises:
        SystemExit: code 1 after one line about what the user can put right, 2 for wrong usage, 130 after Ctrl-C.
        Exception: a defect of the program, or with `--debug` any error.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    _interruption.happened = False
    handler = signal.getsignal(signal.SIGINT)
    try:
        typer.main.get_command(app).main(args=arguments, prog_name="polyvid")
    except SystemExit:
        if not _interruption.happened:
            raise
        _say_stopped(arguments)
        raise SystemExit(130) from None
    except Exception as error:
        if _interruption.happened:
            _say_stopped(arguments)
            raise SystemExit(130) from None
        line = explain(error)
        if line is None or os.environ.get("POLYVID_DEBUG", "0") not in ("", "0"):
            raise
        _close_progress_bars()
        typer.echo(f"error: {line}", err=True)
        raise SystemExit(1) from None
    finally:
        signal.signal(signal.SIGINT, handler)


def _close_progress_bars() -> None:
    """So that the error has a line of its own: a bar closes itself only when nothing refers to it any more."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()


def _say_stopped(arguments: list[str]) -> None:
    command = next((COMMANDS[word] for word in arguments if word in COMMANDS), None)
    typer.echo("\nStopped. The same command resumes." if command and command.resumes else "\nStopped.", err=True)
