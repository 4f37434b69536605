"""The command `polyvid`: every name leads to a function with a help text, errors are one line, Ctrl-C is quiet."""

import importlib
import inspect
import os
import signal
import subprocess
import sys
import time
from types import ModuleType

import pytest

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train import cli


def run(*arguments: str) -> int | str:
    try:
        cli.main(list(arguments))
    except SystemExit as stop:
        return stop.code or 0
    return 0


def polyvid(*arguments: str, **settings) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "polyvid", *arguments]
    return subprocess.run(command, capture_output=True, text=True, **settings)


@pytest.mark.parametrize("name", cli.COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_explains_itself_and_all_its_options(name, flag, capsys):
    assert run(name, flag) == 0
    shown = capsys.readouterr().out
    module, _, function = cli.COMMANDS[name].function.partition(":")
    parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters
    assert f"Usage: polyvid {name}" in shown
    for parameter in parameters.values():
        metadata = getattr(parameter.annotation, "__metadata__", None)
        assert metadata and metadata[0].help, f"polyvid {name}: {parameter.name} has no help"


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_the_overview_lists_all_commands_and_imports_none_of_them(arguments):
    program = (
        "import sys; from polyvid.__main__ import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0
    for name, command in cli.COMMANDS.items():
        assert any(line.split() == [name, *command.summary.split()] for line in done.stdout.splitlines()), name
    assert not {"torch", "transformers", "datasets", "yaml", "numpy"} & set(done.stderr.split())


def test_the_version_is_that_of_the_package():
    assert polyvid("--version").stdout.split()[0] == "polyvid"


def test_completion_knows_the_commands_and_their_options():
    def complete(words: str) -> list[str]:
        settings = {"_POLYVID_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run(
            [sys.executable, "-c", "from polyvid.__main__ import main; main()"],
            env=os.environ | settings,
            capture_output=True,
            text=True,
        )
        return done.stdout.split()

    assert complete("polyvid ex") == ["extract"]
    assert "--dry-run" in complete("polyvid train --d")


def test_launchers_run_it_as_a_module():
    shown = polyvid("extract", "--help")
    assert shown.returncode == 0 and "Usage: polyvid extract" in shown.stdout


def test_an_unknown_command_is_refused_with_the_nearest_one(capsys):
    assert run("extrac") == 2
    assert "No such command 'extrac'. Did you mean 'extract'?" in capsys.readouterr().err


def test_bad_input_is_one_line_and_exit_code_1(capsys, tmp_path):
    assert run("build", "nothing", "de", "--data-dir", "x", "--output-dir", str(tmp_path)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: Unknown dataset 'nothing': choose from") and error.count("\n") == 1


@pytest.fixture
def command(monkeypatch):
    """`polyvid search` with another function: the one that is given."""

    def replace(function) -> None:
        module = ModuleType("replaced")
        module.function = function
        monkeypatch.setitem(sys.modules, "replaced", module)
        monkeypatch.setitem(cli.COMMANDS, "search", cli.Target("replaced:function", "Replaced.", resumes=True))

    return replace


def test_a_defect_of_the_program_keeps_its_traceback(command):
    def fail() -> None:
        raise ValueError("not for users")

    command(fail)
    with pytest.raises(ValueError, match="not for users"):
        cli.main(["search"])


@pytest.mark.parametrize("way", [["--debug", "search"], ["search", "--debug"], ["search"]])
def test_debug_shows_the_traceback_of_every_error(command, way, monkeypatch):
    def fail() -> None:
        raise PolyvidError("for users")

    command(fail)
    monkeypatch.setenv("POLYVID_DEBUG", "1" if way == ["search"] else "0")
    with pytest.raises(PolyvidError, match="for users"):
        cli.main(way)


INTERRUPTED = """
import os, signal, sys, types
from polyvid.train import cli

def command() -> None:
    {body}

module = types.ModuleType("interrupted")
module.command = command
sys.modules["interrupted"] = module
cli.COMMANDS["index"] = cli.Target("interrupted:command", "", resumes={resumes})
cli.main(["index"])
"""


@pytest.mark.parametrize("resumes", [True, False])
@pytest.mark.parametrize(
    "body",
    [
        "os.kill(os.getpid(), signal.SIGINT)",
        # what libraries make of it
        "\n    try: os.kill(os.getpid(), signal.SIGINT)\n    except BaseException: raise RuntimeError('import failed')",
        "\n    try: os.kill(os.getpid(), signal.SIGINT)\n    except BaseException: raise ImportError('x') from None",
    ],
)
def test_ctrl_c_in_a_command_is_one_line(body, resumes):
    program = INTERRUPTED.format(body=body, resumes=resumes)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    said = "Stopped. The same command resumes." if resumes else "Stopped."
    assert (done.returncode, done.stderr.strip()) == (130, said)


@pytest.mark.slow
@pytest.mark.parametrize("modules", [0, 100, 400, 800, 1600])
def test_ctrl_c_while_modules_load_is_one_line(modules, tmp_path):
    """The signal comes once so many modules are imported, which does not depend on how fast the machine is."""
    arguments = ["evaluate", "--model", str(tmp_path / "none")]
    program = f"""
import os, signal, sys

class Trap:
    armed = True
    def find_spec(self, name, path=None, target=None):
        if self.armed and len(sys.modules) >= at_start + {modules}:
            self.armed = False
            os.kill(os.getpid(), signal.SIGINT)

from polyvid.__main__ import main
at_start = len(sys.modules)
sys.meta_path.insert(0, Trap())
main({arguments!r})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (130, "Stopped.")


@pytest.mark.slow
def test_ctrl_c_from_outside_at_any_moment_shows_no_traceback(tmp_path):
    for wait in (0.1, 0.3, 0.6, 1.2, 2.4):
        command = [sys.executable, "-m", "polyvid", "train", "--config", "demo/none", "--dry-run", "data.features=none"]
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        time.sleep(wait)
        started.send_signal(signal.SIGINT)
        said = started.communicate()[1]
        if "Fatal Python error" in said:  # Python itself was still starting, on a busy machine
            continue
        if started.returncode == 1:  # a fast machine is done before
            assert said.count("error: ") == 1
        elif "Stopped." in said:
            # Python ends by the signal itself where it came within `exec` of a text; a shell shows 130 for both.
            assert started.returncode in (130, -signal.SIGINT)
        else:
            continue  # Python itself was still starting
        assert "Traceback" not in said


def test_an_error_has_a_line_of_its_own_next_to_an_open_progress_bar(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "file").write_text("")
    assert run("regions", str(tmp_path / "images"), str(tmp_path / "file" / "out")) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and "cannot be written to" in last
