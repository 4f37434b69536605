"""The command `polyvid`: every name leads to a function with a help text, and errors are one line."""

import importlib
import inspect
import subprocess
import sys

import pytest

from polyvid.train import cli


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["polyvid", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself_and_all_its_options(name, monkeypatch, capsys):
    assert run(monkeypatch, name, "--help") == 0
    shown = capsys.readouterr().out
    module, function = cli.COMMANDS[name].split(":")
    parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters
    assert f"Usage: polyvid {name}" in shown
    for parameter in parameters.values():
        metadata = getattr(parameter.annotation, "__metadata__", None)
        assert metadata and metadata[0].help, f"polyvid {name}: {parameter.name} has no help"


def test_the_overview_lists_all_commands_without_importing_them(monkeypatch, capsys):
    assert run(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in cli.COMMANDS)


def test_launchers_run_it_as_a_module():
    shown = subprocess.run(
        [sys.executable, "-m", "polyvid.train.cli", "extract", "--help"], capture_output=True, text=True
    )
    assert shown.returncode == 0 and "Usage: polyvid extract" in shown.stdout


def test_an_unknown_command_is_refused_with_the_nearest_one(monkeypatch, capsys):
    assert run(monkeypatch, "extrac") == 2
    assert "no command 'extrac'; did you mean 'extract'?" in capsys.readouterr().err


def test_bad_input_is_one_line_and_exit_code_1(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, "build", "nothing", "de", "--data-dir", "x", "--output-dir", str(tmp_path)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: Unknown dataset 'nothing': choose from") and error.count("\n") == 1
