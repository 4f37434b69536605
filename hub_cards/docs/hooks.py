"""Fills the page `cli.md` with the help of every command, written by Typer's own generator."""

import re
from typing import Any

import typer
from typer.cli import get_docs_for_click

from polyvid.train.cli import COMMANDS, app, load_command

MARKER = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for each page."""
    return markdown.replace(MARKER, commands()) if MARKER in markdown else markdown


def commands() -> str:
    """All commands as Markdown. `polyvid` itself imports only the command that runs; here all are needed at once."""
    context = typer.Context(typer.main.get_command(app))
    text = "\n".join(
        get_docs_for_click(obj=load_command(name), ctx=context, name=name, indent=1, call_prefix="polyvid")
        for name in COMMANDS
    )
    return re.sub(r"(```.*?```|`[^`\n]*`)|<", lambda match: match[1] or "&lt;", text, flags=re.DOTALL)
