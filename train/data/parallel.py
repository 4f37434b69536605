"""Reads parallel texts: sentences and their translations, without videos."""

import csv
from pathlib import Path
from typing import Any

from polyvid.dataset_scripts.schema import canonical_language
from polyvid.modeling.errors_mmp import PolyvidError


def load_parallel_texts(path: str | Path, at_least: int = 2) -> list[dict[str, Any]]:
    """Rows like those of `polyvid.dataset_scripts.schema.CAPTIONS`, one for each line of a table.

    The first line names a language in each column, such as `en,de,sw`; each other line holds one sentence in these
    languages. A cell may be empty. Columns are separated by tabs in a file that ends in `.tsv`, else by commas.

    Args:
        path: of the table.
        at_least: languages that a line needs; others are left out.

    Raises:
        FileNotFoundError: if there is no such file.
        PolyvidError: for an unknown language, a language named twice, a line with more cells than languages, or fewer
            than two lines that are used.
    """
    path = Path(path)
    rows: list[dict[str, Any]] = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            languages = _languages(path, next(lines, []))
            for cells in lines:
                if len(cells) > len(languages):
                    raise PolyvidError(
                        f"{path}, line {lines.line_num}: {len(cells)} cells for {len(languages)} languages; put "
                        "quotes around a text that holds the separator."
                    )
                captions = [
                    {"caption_id": "0", "language": language, "text": text.strip(), "source": "parallel"}
                    for language, text in zip(languages, cells, strict=False)
                    if text.strip()
                ]
                if len(captions) >= at_least:
                    rows.append({"video_id": f"line {lines.line_num}", "captions": captions})
    except UnicodeDecodeError as error:
        raise PolyvidError(f"{path} is not encoded in UTF-8: {error}.") from None
    except csv.Error as error:
        raise PolyvidError(f"{path}, line {lines.line_num}: {error}.") from None
    if len(rows) < 2:
        kind = "a text in two languages" if at_least > 1 else "a text"
        raise PolyvidError(f"{path} has {len(rows)} line(s) with {kind}, and two or more are needed.")
    return rows


def _languages(path: Path, header: list[str]) -> list[str]:
    try:
        languages = [canonical_language(name.strip()) for name in header]
    except PolyvidError as error:
        raise PolyvidError(f"{path}, line 1 must name a language in each column, such as en,de,sw: {error}") from None
    if repeated := [language for language in languages if languages.count(language) > 1]:
        raise PolyvidError(f"{path}, line 1 names {repeated[0]} twice.")
    return languages
