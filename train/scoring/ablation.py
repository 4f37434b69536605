"""`polyvid ablate`: the grids of Tables 1, 2, 3, 9, 10 and of Fig. 2, as changes to a recipe.

A grid is a YAML file; see `configs/ablation/`. Each run trains in its own process, is evaluated, and leaves a
`results.json`. A run that has results is skipped; a run that was interrupted resumes.
"""

import difflib
import json
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer
import yaml

from polyvid.dataset_scripts.building import atomic_path
from polyvid.dataset_scripts.locking import locked
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.launching import run_to_end
from polyvid.train.recipe import load_recipe
from polyvid.train.recipe_files import CONFIGS, find_shipped
from polyvid.train.scoring.figure_2 import FIGURE_COLUMNS, plot_figure_2
from polyvid.train.scoring.tables import (
    Results,
    Row,
    Table,
    find_results,
    measured,
    published_tables,
    table_to_markdown,
)

TRAIN = Path(__file__).parents[1] / "train.py"


@dataclass(frozen=True)
class Stage:
    """One training run: a recipe and changes to it, as `key=value`."""

    recipe: Path
    changes: list[str]


@dataclass(frozen=True)
class Grid:
    """A grid file.

    Attributes:
        path: the file itself.
        output: folder for the results.
        runs: name → stages; each stage starts from the model of the one before.
        rows: table → the run for each of its rows, None for a row without a run.
        figure: the runs of Fig. 2, in order.
        translations: translated captions, to test languages in which the benchmark has none.
    """

    path: Path
    output: Path
    runs: dict[str, list[Stage]]
    rows: dict[str, list[str | None]]
    figure: list[str] = field(default_factory=list)
    translations: Path | None = None


def load_grid(path: Path) -> Grid:
    """Read a grid and check that all of its recipes are valid.

    Raises:
        FileNotFoundError: if there is no such file.
        PolyvidError: for an unknown key, a table with the wrong number of rows, a row that names an unknown run, or an
            invalid recipe; the message names the file and the run.
    """
    if not path.is_file():
        shipped = find_shipped(path) or find_shipped(Path("ablation") / path)
        if shipped is None:
            names = sorted(f"ablation/{file.stem}" for file in (CONFIGS / "ablation").glob("*.yaml"))
            raise FileNotFoundError(f"There is no grid {path}. These ship: {' '.join(names)}.")
        path = shipped
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PolyvidError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise PolyvidError(f"{path} is not a grid: it holds no keys.")
    for key in ("base", "runs", "output"):
        if key not in content:
            raise PolyvidError(f"{path} has no key {key!r}.")
    known = ("base", "changes", "output", "translations", "runs", "tables", "figure_2")
    for key in content:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise PolyvidError(f"{path}: there is no key {key!r}; did you mean {nearest!r}?")
    base = path.parent / content["base"]
    common = content.get("changes", {})
    runs = {name: [Stage(base, _changes(common | values))] for name, values in content["runs"].items()}
    figure = []
    if more := content.get("figure_2"):
        for number in range(1, len(more["languages"]) + 1):
            drawn = _changes({"data.languages": more["languages"][:number]})
            stages = [Stage(path.parent / more["pretrain"], drawn), Stage(path.parent / more["finetune"], [])]
            figure.append(f"languages_{number}")
            runs[figure[-1]] = stages
    for name, stages in runs.items():
        for stage in stages:
            try:
                load_recipe(stage.recipe, [*stage.changes, "output_dir=."])
            except PolyvidError as error:
                raise PolyvidError(f"{path}, run {name}: {error}") from None
    rows = content.get("tables", {})
    for table, names in rows.items():
        published = published_tables().get(table)
        if published is None or len(published.rows) != len(names):
            raise PolyvidError(f"{path}: {table} is not a table of the paper with {len(names)} rows.")
        for name in names:
            if name is not None and name not in runs:
                raise PolyvidError(f"{path}, {table}: there is no run {name!r}.")
    translations = Path(content["translations"]) if "translations" in content else None
    return Grid(path, Path(content["output"]), runs, rows, figure, translations)


def _changes(values: dict[str, Any]) -> list[str]:
    """`{"data.languages": ["en"], "data.pivots": True}` → `["data.languages=[\"en\"]", "data.pivots=true"]`."""
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]


def ablate(
    grid: Annotated[Path, typer.Argument(help="Grid file, or the name of one that ships, such as ablation/vtt.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to every recipe, as section.key=value.")
    ] = None,
    run: Annotated[list[str] | None, typer.Option(help="Only these runs of the grid.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Training seed; repeat the option for several.")] = None,
    output: Annotated[Path | None, typer.Option(help="Default: the output folder named in the grid.")] = None,
    launch: Annotated[
        str, typer.Option(help='Command to put before train.py, such as "accelerate launch". Default: this Python.')
    ] = "",
    keep_models: Annotated[bool, typer.Option(help="Keep the weights of evaluated runs.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only list the commands that are left to run.")] = False,
) -> None:
    """Train and evaluate all runs of a grid, then write report.md and, for Fig. 2, figure_2.png."""
    loaded = load_grid(grid)
    output = output or loaded.output
    for name in run or []:
        if name not in loaded.runs:
            nearest = difflib.get_close_matches(name, loaded.runs, n=1, cutoff=0.0)[0]
            raise PolyvidError(f"{grid} has no run {name!r}; did you mean {nearest!r}?")
    try:
        shlex.split(launch)
    except ValueError as error:
        raise PolyvidError(f"--launch {launch}: {error}.") from None
    runs, seeds = run or list(loaded.runs), seed or [0]
    if dry_run:
        for name, number, folder in _missing(output, runs, seeds):
            for command in _commands(loaded.runs[name], folder, number, overrides or [], launch):
                print(shlex.join(command))
        return
    with locked(output, "polyvid ablate"):
        missing = _missing(output, runs, seeds)
        for done, (name, number, folder) in enumerate(missing, 1):
            print(f"── {name}, seed {number} ({done} of {len(missing)})", flush=True)
            commands = _commands(loaded.runs[name], folder, number, overrides or [], launch)
            for command in commands:
                code = run_to_end(command)
                if code:
                    raise SystemExit(f"Run {name} stopped (exit code {code}); the same command resumes it.")
            _evaluate(name, folder, len(commands), loaded.translations)
            if not keep_models:
                for stage in folder.glob("stage_*"):
                    shutil.rmtree(stage)
        call = shlex.join(["polyvid", "ablate", *sys.argv[2:]]) if sys.argv[1:2] == ["ablate"] else "polyvid ablate"
        write_report(loaded, output, call)
    print(f"Written to {output / 'report.md'}.")


def _missing(output: Path, runs: list[str], seeds: list[int]) -> list[tuple[str, int, Path]]:
    """(run, seed, folder) of everything that has no results yet."""
    wanted = [(name, number, output / name / f"seed_{number}") for number in seeds for name in runs]
    return [(name, number, folder) for name, number, folder in wanted if not (folder / "results.json").exists()]


def _commands(stages: list[Stage], folder: Path, seed: int, overrides: list[str], launch: str) -> list[list[str]]:
    commands = []
    for number, stage in enumerate(stages, 1):
        changes = [*stage.changes, *overrides, f"training.seed={seed}", f"output_dir={folder / f'stage_{number}'}"]
        if number > 1:
            changes.append(f"model.init_from={folder / f'stage_{number - 1}'}")
        start = shlex.split(launch) or [sys.executable]
        commands.append([*start, str(TRAIN), "--config", str(stage.recipe), *changes])
    return commands


def _evaluate(name: str, folder: Path, stages: int, translations: Path | None) -> None:
    # Imported late because they load torch, which --dry-run and argument errors do not need.
    from polyvid.train.scoring.benchmark import open_benchmark
    from polyvid.train.scoring.measure import measure

    model = str(folder / f"stage_{stages}")
    table, _ = measure(model, open_benchmark(model, translations=translations), name, folder)
    print(table)


def write_report(grid: Grid, output: Path, command: str) -> None:
    """Write tables in the paper's layout, and Fig. 2, from the results so far."""
    results = find_results(output)
    if not results:
        raise PolyvidError(f"{output} holds no results yet.")
    first = next(iter(results.values()))[0]
    benchmark, protocol = first["protocol"]["benchmark"], first["protocol"]["protocol"]
    seeds = sorted({result["seed"] for found in results.values() for result in found})
    environment = first["environment"]
    parts = [
        f"# Ablations on {benchmark}",
        "",
        f"`{command}`; seeds {', '.join(map(str, seeds))}; {first['counts']['videos']:,} videos searched; "
        f"torch {environment['torch']}, {environment['device']}, revision {environment['git_revision']}. "
        f"The 95 % bootstrap interval of a run's English R@1 is ± {_half_interval(results):.1f} on average. It covers "
        "the choice of videos only; seeds vary the score further.",
    ]
    for name, runs in grid.rows.items():
        published = published_tables()[name]
        comparable = (published.benchmark, published.protocol) == (benchmark, protocol)
        rows = [Row(row.labels, row.scores, run) for row, run in zip(published.rows, runs, strict=True)]
        table = Table(published.title, benchmark, protocol, published.labels, published.columns, rows)
        parts += ["", f"## {name.replace('_', ' ').capitalize()}: {published.title}", ""]
        if not comparable:
            parts += [
                f"Published: on {published.benchmark}, to compare the order of the rows. Ours: on {benchmark}.",
                "",
            ]
        parts.append(table_to_markdown(table, results, differences=comparable))
    if shown := [name for name in grid.figure if (name, benchmark, protocol) in results]:
        parts += ["", "## Figure 2: languages in multilingual multimodal pre-training", "", "![R@1](figure_2.png)", ""]
        parts += [f"| languages | {' | '.join(FIGURE_COLUMNS)} |", "|---:|---:|---:|---:|"]
        points = {name: _points(results, (name, benchmark, protocol)) for name in shown}
        for name, values in points.items():
            several = len(results[name, benchmark, protocol]) > 1
            cells = [f"{m:.1f} ± {s:.1f}" if several else f"{m:.1f}" for m, s in values]
            parts.append(f"| {name.split('_')[1]} | {' | '.join(cells)} |")
        plot_figure_2({int(name.split("_")[1]): values for name, values in points.items()}, output / "figure_2.png")
    with atomic_path(output / "report.md") as temporary:
        temporary.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _half_interval(results: Results) -> float:
    intervals = [result["intervals_95"]["en"]["R@1"] for found in results.values() for result in found]
    return mean((high - low) / 2 for low, high in intervals)


def _points(results: Results, key: tuple[str, str, str]) -> list[tuple[float, float]]:
    """Mean and standard deviation over seeds, for each of `FIGURE_COLUMNS`."""
    columns = [measured(results[key], column) for column in FIGURE_COLUMNS]
    return [(mean(values), stdev(values) if len(values) > 1 else 0.0) for values in columns]
