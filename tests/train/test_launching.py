"""A command that starts a training run: after Ctrl-C it leaves the run the time to write a checkpoint."""

import os
import signal
import subprocess
import sys

import pytest

from polyvid.train.launching import run_to_end

COMMAND = "import sys; from polyvid.train.launching import run_to_end; run_to_end(sys.argv[1:]); print('went on')"
RUN = """
import signal, sys, time
asked = []
signal.signal(signal.SIGINT, lambda *_: asked.append(True))
print("training", flush=True)
while not asked:
    time.sleep(0.01)
time.sleep(1)
open(sys.argv[1], "w").write("saved")
"""
LAUNCHER = "import subprocess, sys; subprocess.Popen([sys.executable, *sys.argv[1:]]).wait()"  # as accelerate's


def start(*command: str) -> subprocess.Popen:
    """The command in a group of processes of its own, as a shell starts it; the run has begun when this returns."""
    started = subprocess.Popen(
        [sys.executable, "-c", COMMAND, sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "training\n"
    return started


@pytest.mark.parametrize("launcher", [(), ("-c", LAUNCHER)], ids=["alone", "with a launcher"])
def test_ctrl_c_waits_until_the_run_has_saved(tmp_path, launcher):
    run, checkpoint = tmp_path / "run.py", tmp_path / "checkpoint"
    run.write_text(RUN)
    started = start(*launcher, str(run), str(checkpoint))
    os.killpg(started.pid, signal.SIGINT)  # what a terminal does
    started.wait()
    saved = checkpoint.exists()
    assert saved and started.returncode == -signal.SIGINT
    assert started.communicate()[0] == ""


def test_ctrl_c_again_kills_a_run_that_does_not_stop(tmp_path):
    run = tmp_path / "run.py"
    run.write_text(RUN.replace("time.sleep(1)", "print('saving', flush=True); time.sleep(3600)"))
    started = start(str(run), str(tmp_path / "checkpoint"))
    os.killpg(started.pid, signal.SIGINT)
    assert started.stdout.readline() == "saving\n"
    while started.poll() is None:  # the first may not have arrived yet at the command itself
        os.killpg(started.pid, signal.SIGINT)
        try:
            started.wait(0.2)
        except subprocess.TimeoutExpired:
            pass
    assert started.communicate()[0] == ""  # the end of the run's output too: nobody is left to write to it


def test_exit_codes_are_passed_on():
    assert run_to_end([sys.executable, "-c", "raise SystemExit(3)"]) == 3
