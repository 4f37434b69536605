"""What the demo's measuring scripts share: errors in one line, and a results file with its table beside it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from polyvid.dataset_scripts.building import atomic_path, write_json
from polyvid.train.errors import explain


def run_script(main: Callable[..., None]) -> None:
    """Run `main` with the options of the command line. What a user can put right is one line, and exit code 1."""
    try:
        typer.run(main)
    except Exception as error:
        if (line := explain(error)) is None:
            raise
        raise SystemExit(f"error: {line}") from None


def write_results(results: Path, content: Mapping[str, Any], to_markdown: Callable[[Mapping[str, Any]], str]) -> None:
    """Write `content` as JSON and its table as Markdown beside it, and print the table."""
    write_json(results, content)
    table = to_markdown(content)
    with atomic_path(results.with_suffix(".md")) as path:
        path.write_text(table, encoding="utf-8")
    print(table)
