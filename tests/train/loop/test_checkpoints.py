"""The output folder of a run: one run at a time, and nothing of a killed one stays behind."""

import errno
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_trainer import tiny_trainer

from polyvid.dataset_scripts.locking import LockedError
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.loop.step_log import read_steps
from polyvid.train.loop.trainer import Stopped
from polyvid.train.verifying.folders import verify_path

HOLD = """
import sys, time
from pathlib import Path
from polyvid.dataset_scripts.locking import locked
with locked(sys.argv[1], "polyvid train"):
    Path(sys.argv[2]).touch()
    time.sleep(600)
"""


def stopped_trainer(folder: Path, step: int = 2):
    trainer = tiny_trainer(folder)
    trainer.processes.any = lambda flags: [trainer.progress.step == step, False]
    with pytest.raises(Stopped):
        trainer.fit()
    return trainer


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_second_run_on_an_output_folder_is_refused_and_names_the_first(tmp_path):
    output, sign = tmp_path / "run", tmp_path / "held"
    first = subprocess.Popen([sys.executable, "-c", HOLD, output, sign])
    try:
        while not sign.exists():
            assert first.poll() is None
            time.sleep(0.01)
        with pytest.raises(LockedError, match=rf"process {first.pid} on {socket.gethostname()}"):
            tiny_trainer(output).fit()
        assert not output.exists()  # nothing was touched
    finally:
        first.kill()
        first.wait()
    tiny_trainer(output, epochs=1).fit()  # a killed run holds no lock


def test_what_a_killed_run_left_half_written_goes_at_the_next_start_and_nothing_else(tmp_path):
    trainer = stopped_trainer(tmp_path / "run")
    folder = trainer.checkpoints.folder
    for name in (".step-00000003.unfinished", ".step-00000001.outdated", ".best.unfinished"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_text("half")
    (folder / "my notes").mkdir()
    with trainer.checkpoints.locked():
        assert names(folder) == {"step-00000002", "my notes"}


@pytest.mark.parametrize("strangers", [False, True])
def test_checkpoints_of_a_run_killed_at_its_very_end_go_when_it_is_found_finished(tmp_path, monkeypatch, strangers):
    trainer = tiny_trainer(tmp_path / "run", epochs=1, save_minutes=0)
    monkeypatch.setattr(trainer.checkpoints, "_remove_own", lambda names: None)  # killed before it
    trainer.fit()
    folder = trainer.checkpoints.folder
    assert {"best", "step-00000003"} <= names(folder)
    if strangers:
        (folder / "my notes").touch()
    assert tiny_trainer(tmp_path / "run", epochs=1).checkpoints.is_finished()
    assert names(folder) == {"my notes"} if strangers else not folder.exists()


def test_a_file_system_without_hard_links_gets_copies(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    trainer = tiny_trainer(tmp_path / "run", epochs=1)
    trainer.fit()
    assert "model.safetensors" in names(trainer.output_dir) and not trainer.checkpoints.folder.exists()
    assert not [name for name in names(trainer.output_dir) if name.startswith(".")]


def test_only_a_full_disk_is_reported_as_one(tmp_path, monkeypatch):
    trainer = stopped_trainer(tmp_path / "run")
    trainer.progress.step += 1

    def failing(error):
        def write(*_):
            raise error

        monkeypatch.setattr(type(trainer.checkpoints.repository), "write", write)
        return trainer.save

    with pytest.raises(RuntimeError, match="size mismatch") as caught:  # a programming error: with its traceback
        failing(RuntimeError("size mismatch"))()
    assert not isinstance(caught.value, OSError)
    with pytest.raises(OSError, match=r"No space left.*Make room; the same command resumes from .*step-00000002"):
        failing(OSError(errno.ENOSPC, "No space left on device"))()
    with pytest.raises(OSError, match=r"Permission denied.*Check the disk and its permissions"):
        failing(PermissionError(errno.EACCES, "Permission denied"))()


def test_a_checkpoint_that_was_changed_is_not_resumed_but_named(tmp_path):
    """A flipped bit in weights or optimizer would train on, and nobody would know."""
    folder = stopped_trainer(tmp_path / "run").checkpoints.to_resume()
    for name in ("model.safetensors", "optimizer.pt"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        with pytest.raises(PolyvidError, match=rf"{name} does not match its checksum: delete .*step-00000002; "):
            tiny_trainer(tmp_path / "run").fit()
        (folder / name).write_bytes(content)
    (folder / "SHA256SUMS").unlink()  # an older version wrote none
    tiny_trainer(tmp_path / "run").fit()
    assert {found.state for found in verify_path(tmp_path / "run") if found.path.suffix != ".jsonl"} == {"whole"}


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    stopped_trainer(tmp_path / "run")
    trainer = tiny_trainer(tmp_path / "run")
    trainer.batches.batches.size = 40
    with pytest.raises(ValueError, match="The data have changed: an epoch of the checkpoint .* has 3 steps"):
        trainer.fit()
    assert len(read_steps(trainer.step_log.path)) == 2
