"""Markdown tables of scores by language."""

from collections.abc import Sequence

from polyvid.dataset_scripts.schema import language_name

MOST_COLUMNS = 12
"""Tables with more languages than this have a row, not a column, for each; plots have bars that lie."""


def language_table(title: str, languages: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table with a column for each language and the mean; for many languages, with a row for each.

    Args:
        title: of the first column.
        languages: codes.
        rows: the name of a score, its values by language, and their mean.
    """
    head = [title, *languages, "mean"]
    if len(languages) > MOST_COLUMNS:
        names = [title, *(f"{language_name(code)} ({code})" for code in languages), "mean"]
        head, *rows = (list(cells) for cells in zip(names, *rows, strict=True))
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    return [*lines, *(f"| {' | '.join(cells).rstrip()} |" for cells in rows)]
