"""From the official files of a dataset to a folder that the Hub can load: Parquet shards, card, report."""

import json
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer
import yaml
from datasets import DatasetBuilder
from huggingface_hub import DatasetCard

from polyvid.dataset_scripts.building import (
    atomic_path,
    convert_config,
    count_rows,
    load_builder,
    options_of,
)
from polyvid.dataset_scripts.locking import lock_path, locked
from polyvid.dataset_scripts.own_data.building import CONFIG, build_own
from polyvid.dataset_scripts.own_data.opening import known_dataset, parse_columns
from polyvid.dataset_scripts.workers import end_with_parent
from polyvid.modeling.errors_mmp import PolyvidError

CONFIGS = re.compile(r"^configs:\n(?:(?:- | ).*\n)*", re.MULTILINE)


def build(
    dataset: Annotated[
        str,
        typer.Argument(help="A folder of dataset_scripts/, e.g. multi_howto100m or msrvtt; or one with metadata.csv."),
    ],
    configs: Annotated[list[str], typer.Argument(help="Its configs, e.g. de all (cz means cs). Your own: default.")],
    output_dir: Annotated[Path, typer.Option(help="Output folder for <config>/*.parquet, README.md and reports/.")],
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with the official files, named in the dataset's card.")
    ] = None,
    num_shards: Annotated[
        int | None, typer.Option(min=1, help="Shards per config. Default: enough for about 500 MB each.")
    ] = None,
    num_proc: Annotated[int, typer.Option(min=1, help="Configs to build at the same time.")] = 1,
    option: Annotated[
        list[str] | None, typer.Option(help="Option of the builder as key=value, e.g. languages=en,de.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Of your own captions: a column's name, such as en=caption. Repeatable.")
    ] = None,
) -> None:
    """Build a dataset from its official files, ready for load_dataset and for `polyvid push dataset`.

    A config appears when it is complete, and one that is complete is kept: a run that was stopped resumes with the
    configs that are missing. Delete <output-dir>/<config> to build it again. What was repaired or skipped is listed
    with reasons and video ids in <output-dir>/reports/<config>.json.
    """
    if (known := known_dataset(dataset)) is None:
        return _build_own(dataset, configs, output_dir, data_dir, num_shards, parse_columns(column or []))
    if data_dir is None:
        raise PolyvidError(f"Pass --data-dir: the folder with the official files of {known}, which its card names.")
    dataset = known
    builder_class: Callable[..., DatasetBuilder] = load_builder(dataset)
    make: partial[DatasetBuilder] = partial(builder_class, data_dir=str(data_dir), **parse_options(option or []))
    builders = [make(config_name=config) for config in configs]  # unknown names are refused before any work
    with locked(output_dir, "polyvid build"):
        _remove_leftovers(output_dir)
        todo = [builder.config.name for builder in builders if not _is_built(builder, output_dir)]
        jobs = partial(_build_config, make, output_dir=output_dir, num_shards=num_shards)
        if num_proc > 1 and len(todo) > 1:
            with ProcessPoolExecutor(num_proc, get_context("spawn"), initializer=end_with_parent) as pool:
                list(pool.map(jobs, todo))
        else:
            for name in todo:
                jobs(name)
        write_card(Path(__file__).parent / dataset / "README.md", output_dir)
    for builder in builders:
        state = "built" if builder.config.name in todo else "was already there"
        print(f"{builder.config.name}: {state}, {output_dir / builder.config.name}")


def _build_own(
    dataset: str,
    configs: list[str],
    output_dir: Path,
    data_dir: Path | None,
    num_shards: int | None,
    columns: dict[str, str],
) -> None:
    """Captioned videos of one's own, with the videos in the rows."""
    if configs != [CONFIG]:
        raise PolyvidError(f"Captioned videos of your own have the config {CONFIG!r} alone, not {' '.join(configs)}.")
    with locked(output_dir, "polyvid build"):
        if (output_dir / CONFIG).is_dir():
            print(f"{CONFIG}: was already there, {output_dir / CONFIG}")
        else:
            count = build_own(dataset, output_dir, data_dir, columns, num_shards)
            print(f"{CONFIG}: built, {count:,} videos, {output_dir / CONFIG}")


def _remove_leftovers(output_dir: Path) -> None:
    """What a run that was killed left unfinished; the lock says that nobody is writing it now."""
    for path in [*output_dir.glob(".*.incomplete"), *output_dir.glob("reports/.*.incomplete")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_built(builder: DatasetBuilder, output_dir: Path) -> bool:
    """Whether the config is there and whole: every shard can be opened, with as many rows as were recorded.

    Raises:
        PolyvidError: when it was built with other options.
    """
    name = builder.config.name
    folder, report = output_dir / name, output_dir / "reports" / f"{name}.json"
    if not folder.is_dir():
        return False
    try:
        recorded = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
        rows = count_rows(folder)
        if rows != recorded.get("rows", rows):
            raise PolyvidError(f"{folder} holds {rows} rows where {recorded['rows']} were written.")
    except (ValueError, OSError) as error:
        print(f"{name}: {error} It is built again.")
        return False
    before, now = recorded.get("options", {}), options_of(builder)
    if "options" in recorded and before != now:
        raise PolyvidError(
            f"{folder} was built with the options {before}, not {now}: delete it, or choose another --output-dir."
        )
    return True


def _build_config(make: partial[DatasetBuilder], name: str, output_dir: Path, num_shards: int | None) -> None:
    # Its own lock: a worker whose parent was killed may live on for a moment after the folder's lock became free.
    folder = output_dir / name
    with locked(folder, "polyvid build", wait=60):
        try:
            convert_config(make(config_name=name), output_dir, num_shards)
        finally:  # may be deleted, as only workers of the run that holds the folder's lock wait for it
            lock_path(folder.resolve()).unlink(missing_ok=True)


def parse_options(options: list[str]) -> dict[str, object]:
    """`["check_counts=false", "languages=en,de"]` -> `{"check_counts": False, "languages": ["en", "de"]}`.

    Raises:
        PolyvidError: for an option that is not `key=value`.
    """
    values = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not key or not equals:
            raise PolyvidError(f"Option {option!r} is not key=value.")
        values[key] = value.split(",") if "," in value else yaml.safe_load(value)
    return values


def write_card(template: Path, output_dir: str | os.PathLike) -> None:
    """Put the dataset's card into its folder, `configs:` cut down to those that are built there.

    An existing card keeps its text (it may hold statistics).
    """
    output = Path(output_dir) / "README.md"
    source = DatasetCard.load(template)
    content = output.read_text(encoding="utf-8") if output.exists() else template.read_text(encoding="utf-8")
    built = [config for config in source.data.configs if (output.parent / config["config_name"]).is_dir()]
    listed = yaml.safe_dump({"configs": built}, sort_keys=False)
    with atomic_path(output) as temporary:
        temporary.write_text(CONFIGS.sub(lambda _: listed, content, count=1), encoding="utf-8")
