"""The lock of what a command writes, with real processes."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from lock_holder import HOLDER, held_elsewhere

from polyvid.dataset_scripts.locking import LockedError, locked


def test_a_second_process_is_refused_in_one_line_that_names_the_first(tmp_path):
    with held_elsewhere(tmp_path / "vtt") as first, pytest.raises(LockedError) as refused:
        with locked(tmp_path / "vtt", "polyvid join"):
            pass
    message = str(refused.value)
    assert str(tmp_path / "vtt") in message
    assert f"`polyvid build` (process {first.pid} on " in message and ", since 20" in message
    assert "choose another folder" in message and "\n" not in message


def test_refusing_leaves_the_description_of_the_owner_for_the_next_one(tmp_path):
    with held_elsewhere(tmp_path / "vtt") as first:
        for _ in range(2):
            with pytest.raises(LockedError, match=f"process {first.pid} on"), locked(tmp_path / "vtt", "polyvid join"):
                pass


def test_the_lock_of_a_process_that_was_killed_is_taken_over(tmp_path):
    with held_elsewhere(tmp_path / "vtt") as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
        with locked(tmp_path / "vtt", "polyvid join"):
            owner = json.loads((tmp_path / ".vtt.lock").read_text())
    assert owner["pid"] == os.getpid() and owner["command"] == "polyvid join"


def test_waiting_for_a_process_that_ends(tmp_path):
    with held_elsewhere(tmp_path / "vtt") as first:
        first.stdin.close()  # it ends now, at its own speed
        with locked(tmp_path / "vtt", "polyvid join", wait=60):
            assert first.wait(timeout=300) == 0


def test_the_same_process_may_enter_again_and_other_folders_are_free(tmp_path):
    with held_elsewhere(tmp_path / "msvd"), locked(tmp_path / "vtt", "polyvid demo"):
        with locked(tmp_path / "sub" / ".." / "vtt", "polyvid extract"):
            pass
        with pytest.raises(LockedError), locked(tmp_path / "msvd", "polyvid build"):
            pass
        # still held by the outer block
        outcome = subprocess.run(
            [sys.executable, "-c", HOLDER, str(tmp_path / "vtt")], stdin=subprocess.DEVNULL, capture_output=True
        )
        assert b"LockedError" in outcome.stderr and b"polyvid demo" in outcome.stderr


def test_a_link_to_the_folder_is_the_folder(tmp_path):
    (tmp_path / "vtt").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "vtt")
    with held_elsewhere(tmp_path / "vtt"), pytest.raises(LockedError), locked(tmp_path / "link", "polyvid build"):
        pass


def test_an_error_inside_the_block_releases_the_lock(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path / "vtt", "polyvid build"):
        raise RuntimeError
    with held_elsewhere(tmp_path / "vtt"):
        pass


def test_a_parent_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"vtt cannot be written to \(.*\): choose another folder"):
        with locked(tmp_path / "file" / "vtt", "polyvid build"):
            pass


# --- as a user for whom permissions count ------------------------------------------------------------------------

WRITER = """
import os, sys
from polyvid.dataset_scripts.locking import locked
from polyvid.train.errors import explain
if os.geteuid() == 0:  # everything is imported: this user may be unable to read the checkout
    nobody = 65534
    os.setgroups([]), os.setgid(nobody), os.setuid(nobody)
try:
    with locked(sys.argv[1], "polyvid build"):
        print("locked")
except Exception as error:
    print(explain(error))
"""
as_two_users = pytest.mark.skipif(os.geteuid() != 0, reason="takes two users, so root")


def write_as_a_user(target: Path) -> str:
    """What a user who is not root gets when he wants to lock the target."""
    done = subprocess.run([sys.executable, "-c", WRITER, str(target)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def shared():
    """A folder that every user can enter and write to; those of pytest are for their owner alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o777)
        yield folder
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o777)


def test_a_folder_without_permission_is_one_line(shared):
    (shared / "vtt").mkdir(mode=0o500)
    assert write_as_a_user(shared / "vtt") == (
        f"{shared / 'vtt'} cannot be written to (no permission to write: {shared / 'vtt'}): choose another folder, or "
        "change its permissions."
    )


def test_a_writable_folder_in_a_read_only_parent_keeps_its_lock_inside(shared):
    (shared / "mount" / "vtt").mkdir(parents=True)
    (shared / "mount" / "vtt").chmod(0o777)
    (shared / "mount").chmod(0o555)
    assert write_as_a_user(shared / "mount" / "vtt") == "locked"
    assert (shared / "mount" / "vtt" / ".lock").exists()


@as_two_users
def test_a_lock_file_of_somebody_else_is_one_line_that_names_it(shared):
    """In a folder for several users, what one of them created may not be writable for the next."""
    (shared / "vtt").mkdir()
    (shared / "vtt").chmod(0o777)
    with held_elsewhere(shared / "vtt"):
        (shared / ".vtt.lock").chmod(0o644)
    assert write_as_a_user(shared / "vtt") == (
        f"{shared / 'vtt'} cannot be written to (Permission denied: {shared / '.vtt.lock'}): choose another folder, or "
        "change its permissions."
    )


@as_two_users
def test_a_process_of_another_user_is_named(shared):
    (shared / "vtt").mkdir()
    (shared / "vtt").chmod(0o777)
    with held_elsewhere(shared / "vtt") as first:
        (shared / ".vtt.lock").chmod(0o666)
        assert f"is being written by `polyvid build` (process {first.pid} on " in write_as_a_user(shared / "vtt")
    assert write_as_a_user(shared / "vtt") == "locked"
