"""`polyvid tables`: Tables 1-7, 9, 10 and 12 in the paper's layout, with measured next to published scores."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer
import yaml

from polyvid.dataset_scripts.building import atomic_path
from polyvid.dataset_scripts.locking import locked
from polyvid.dataset_scripts.schema import LANGUAGES, in_table_order
from polyvid.modeling.errors_mmp import PolyvidError

PUBLISHED = Path(__file__).with_name("published.yaml")
Results = Mapping[tuple[str, str, str], Sequence[Mapping[str, Any]]]
"""(run, benchmark, protocol) → the contents of its results.json, one per seed."""


@dataclass(frozen=True)
class Row:
    """A row of a table. `run` is the run whose results belong in it; None for other authors' methods."""

    labels: list[str]
    scores: list[float | None]
    run: str | None = None


@dataclass(frozen=True)
class Table:
    """A table of the paper. `columns` are "language score"; the language "mean" is the mean over all nine."""

    title: str
    benchmark: str
    protocol: str
    labels: list[str]
    columns: list[str]
    rows: list[Row]


def published_tables() -> dict[str, Table]:
    """`{"table_1": Table, ...}`, with every score as printed in the paper."""
    content = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    return {name: Table(**(table | {"rows": [Row(**row) for row in table["rows"]]})) for name, table in content.items()}


def find_results(folder: Path) -> Results:
    """All `results.json` files from `polyvid evaluate` in a folder, at any depth.

    Raises:
        FileNotFoundError: if there is no such folder.
        PolyvidError: for a file that is not JSON, or two results with the same run and seed; names the files.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: polyvid evaluate writes results to outputs/results.")
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    files: dict[tuple[Any, ...], Path] = {}
    for path in sorted(folder.rglob("results.json")):
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise PolyvidError(f"{path} is not JSON ({error}): evaluate again.") from None
        if not isinstance(results, dict) or not {"name", "protocol", "counts", "scores"} <= results.keys():
            continue  # written by another program
        key = (results["name"], results["protocol"]["benchmark"], results["protocol"]["protocol"])
        first = files.setdefault((*key, results.get("seed")), path)
        if first != path:
            raise PolyvidError(f"{first} and {path} are both run {key[0]!r}, seed {results.get('seed')}: remove one.")
        found[key].append(results)
    return found


def measured(results: Sequence[Mapping[str, Any]], column: str) -> list[float]:
    """The text-to-video score for a column, from each of a run's results that has it."""
    language, score = column.split()
    values = []
    for result in results:
        by_language = result["scores"]["all"]["text_to_video"]
        wanted = LANGUAGES if language == "mean" else [language]
        if all(code in by_language for code in wanted):
            values.append(mean(by_language[code][score] for code in wanted))
    return values


def table_to_markdown(table: Table, results: Results, differences: bool = True) -> str:
    """A table with three columns per score: published, ours and the difference. Cells without a score are empty.

    A run with several seeds is shown as mean ± standard deviation (number of seeds).
    """
    heads = [head for column in table.columns for head in (column, "ours", "diff.")[: 3 if differences else 2]]
    lines = [
        f"| {' | '.join([*table.labels, *heads])} |",
        f"|{'---|' * len(table.labels)}{'---:|' * len(heads)}",
    ]
    for row in table.rows:
        own = results.get((row.run, table.benchmark, table.protocol), ()) if row.run else ()
        cells = []
        for column, published in zip(table.columns, row.scores, strict=True):
            values = measured(own, column)
            spread = f" ± {stdev(values):.1f} ({len(values)})" if len(values) > 1 else ""
            cells.append("" if published is None else f"{published:.1f}")
            cells.append(f"{mean(values):.1f}{spread}" if values else "")
            # The difference of the rounded values, which are what is shown. Adding 0.0 turns -0.0 into 0.0.
            cells.append(
                f"{round(round(mean(values), 1) - published, 1) + 0.0:+.1f}" if published is not None and values else ""
            )
        if not differences:
            cells = [cell for number, cell in enumerate(cells) if number % 3 != 2]
        lines.append(f"| {' | '.join([*row.labels, *cells])} |")
    return "\n".join(lines)


def beyond_the_tables(results: Results) -> Table | None:
    """Results for which the paper's tables have no cell (other languages or benchmarks); None if there are none.

    They include what the paper leaves as future work: a model fine-tuned on VTT that searches YouTube2Text in Chinese
    (the empty cell of Table 11), and a video model that searches images in other languages (§5.6).
    """
    shown = {
        (row.run, table.benchmark, table.protocol, language)
        for table in published_tables().values()
        for row in table.rows
        for column in table.columns
        for language in (LANGUAGES if column.startswith("mean") else [column.split()[0]])
    }
    rows = []
    for key, found in sorted(results.items()):
        for language in in_table_order(found[0]["scores"]["all"]["text_to_video"]):
            if (*key, language) not in shown:
                values = [measured(found, f"{language} {score}") for score in ("R@1", "R@5", "R@10")]
                rows.append(Row([*key, language], [mean(value) for value in values]))
    labels = ["run", "benchmark", "protocol", "language"]
    return Table("Beyond the paper's tables", "", "", labels, ["R@1", "R@5", "R@10"], rows) if rows else None


def text_ceilings_to_markdown(results: Results) -> str | None:
    """R@1 of English captions found from other languages by the text backbone alone; None if no result has them."""
    found = {key: own[0]["text_ceilings"] for key, own in sorted(results.items()) if own[0].get("text_ceilings")}
    languages = list(dict.fromkeys(language for ceilings in found.values() for language in ceilings))
    lines = [f"| run | benchmark | protocol | {' | '.join(languages)} |", f"|---|---|---|{'---:|' * len(languages)}"]
    for key, ceilings in found.items():
        cells = [f"{ceilings[language]['R@1']:.1f}" if language in ceilings else "" for language in languages]
        lines.append(f"| {' | '.join([*key, *cells])} |")
    return "\n".join(lines) if found else None


def remarks(results: Results) -> list[str]:
    """A note for each run that was scored with some videos missing."""
    notes = []
    for (run, benchmark, _), found in sorted(results.items()):
        counts = found[0]["counts"]
        if counts["videos_with_features"] < counts["videos"]:
            notes.append(
                f"{run} on {benchmark}: {counts['videos_with_features']:,} of {counts['videos']:,} videos have "
                "features; queries for the others count as not found."
            )
    return notes


def tables(
    results: Annotated[Path, typer.Argument(help="Folder with results of polyvid evaluate, at any depth.")],
    table: Annotated[list[int] | None, typer.Option(help="Only these tables, by their number in the paper.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the tables to this Markdown file instead of printing them.")
    ] = None,
) -> None:
    """Regenerate the paper's tables: published, ours and the difference, empty where not run.

    A result belongs to a row by the name of its run, its benchmark and its protocol; train/scoring/published.yaml lists
    the names.
    """
    known = published_tables()
    chosen = [f"table_{number}" for number in table] if table else list(known)
    for name in chosen:
        if name not in known:
            raise PolyvidError(f"No {name.replace('_', ' ')} here: choose from {' '.join(n[6:] for n in known)}.")
    found = find_results(results)
    parts = ["# The paper's tables", "", "Text-to-video search, recall in percent. diff.: ours - published."]
    for name in chosen:
        content = known[name]
        parts += [
            "",
            f"## {name.replace('_', ' ').capitalize()}: {content.title}",
            "",
            f"`{content.benchmark}`, protocol `{content.protocol}`.",
            "",
            table_to_markdown(content, found),
        ]
    if more := beyond_the_tables(found):
        parts += ["", f"## {more.title}", "", f"| {' | '.join(more.labels + more.columns)} |"]
        parts.append("|" + "---|" * len(more.labels) + "---:|" * len(more.columns))
        for row in more.rows:
            parts.append(f"| {' | '.join([*row.labels, *(f'{score:.1f}' for score in row.scores)])} |")
    if ceilings := text_ceilings_to_markdown(found):
        parts += [
            "",
            "## Text ceilings",
            "",
            "R@1 of the English caption of the same video, by the text backbone alone.",
        ]
        parts += ["", ceilings]
    if notes := remarks(found):
        parts += ["", "## Remarks", "", *(f"- {note}" for note in notes)]
    text = "\n".join(parts) + "\n"
    if output is None:
        print(text)
        return
    with locked(output, "polyvid tables"), atomic_path(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"Written to {output}.")
