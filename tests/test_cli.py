"""The command `mmp`: every name leads to a function with a help text, and errors are one line."""

import importlib

import pytest

from mmp.train import cli


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_is_there_and_says_what_it_does(name):
    module, function = cli.COMMANDS[name].split(":")
    assert getattr(importlib.import_module(module), function).__doc__
    command = cli.LazyCommands(name="mmp").get_command(None, name)
    assert command.help and all(getattr(option, "help", True) for option in command.params)


def test_an_unknown_command_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["mmp", "extrac"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2 and "No such command 'extrac'" in capsys.readouterr().err


def test_bad_input_is_one_line_and_exit_code_1(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["mmp", "build", "nothing", "de", "--data-dir", "x", "--output-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    error = capsys.readouterr().err
    assert caught.value.code == 1
    assert error.startswith("error: Unknown dataset 'nothing': choose from") and error.count("\n") == 1
