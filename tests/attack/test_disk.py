"""Every writing command without room, or without permission: one line, nothing half-written, and a next run that works.

The disk is a small file system in memory, which only root can mount; else those tests are skipped.
"""

import ctypes
import os
import random
import re
import struct
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from budget import MINUTES, seed_of
from writing_commands import DONE, WRITING, Started, command, contents, difference, prepare

pytestmark = pytest.mark.slow
ROOMY = 256 << 20
FULL = re.compile(r"^error: .*(No space left|os error 28|[Ee]rrno 28|is full)")
DENIED = re.compile(r"^error: .*(cannot be written to|Permission denied)")
WRITES_AGAIN = (
    "statistics",
    "evaluate",
    "index",
    "coverage",
    "tables",
    "contact-sheet",
    "ablate",
)  # what is there already
UNFINISHED = (".part", ".incomplete", ".unfinished", ".outdated")
GROWS = ("out/steps.jsonl",)  # a line for every step of training


class SmallDisk:
    """A file system of its own at `case`."""

    def __init__(self, case: Path):
        self.case = case
        case.mkdir()

    def renew(self, size: int = ROOMY) -> None:
        self.remove()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "polyvid", self.case], check=True)

    def resize(self, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", self.case], check=True)

    def remove(self) -> None:
        if os.path.ismount(self.case):
            subprocess.run(["umount", "--lazy", self.case], check=True)

    def used(self) -> int:
        status = os.statvfs(self.case)
        return (status.f_blocks - status.f_bfree) * status.f_frsize


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path_factory.mktemp("disk") / "case")
    try:
        disk.renew()
    except (subprocess.CalledProcessError, OSError):
        pytest.skip("needs the right to mount a file system")
    yield disk
    disk.remove()


@pytest.fixture(scope="module")
def with_room(disk, inputs):
    """What a command leaves where there is room, and how many bytes of the disk that takes, before and after.

    Locks do not count: what they say may be missing.
    """

    @cache
    def run(name: str) -> tuple[dict[str, bytes], int, int]:
        disk.renew()
        prepare_on(disk.case, name, inputs)
        before = disk.used()
        started = Started(command(name, inputs, disk.case / "out"), disk.case.with_name("log"))
        assert started.wait() == 0, started.said()
        for path in disk.case.rglob("*lock"):
            path.write_bytes(b"")
        return contents(disk.case), before, disk.used()

    return run


def prepare_on(case: Path, name: str, inputs: Path) -> None:
    """As `prepare`, below a folder that cannot be removed."""
    prepare([name], inputs, case / "prepared" / "out")
    if (case / "prepared" / "out").exists():
        (case / "prepared" / "out").rename(case / "out")
    (case / "prepared").rmdir()


def check_refusal(run: Started, why: re.Pattern[str], story: str) -> None:
    assert "Traceback" not in run.said(), f"{story}: {run.said()}"
    assert why.search(run.last_line()), f"{story}: {run.said()[-1000:]}"


@pytest.mark.parametrize("name", WRITING)
def test_a_full_disk_is_one_line_and_the_next_run_is_whole(inputs, disk, with_room, attack, name):
    """Disks that are too small for the output, from full ones on, and in the long form some with hardly more room."""
    expected, before, after = with_room(name)
    assert after > before
    failed = 0
    for number in attack.rounds(1):
        chance = random.Random(seed_of("full", name, number))
        share = 0.0 if number == 0 and after - before <= 1 << 16 else chance.random() * (1.2 if number % 4 == 3 else 1)
        size = max(8192, before + int(share * (after - before))) // 4096 * 4096
        story = f"{name} on a disk of {size:,} bytes, {before:,} of them used and {after:,} needed"
        disk.renew()
        prepare_on(disk.case, name, inputs)
        earlier = contents(disk.case)
        disk.resize(size)
        run = Started(command(name, inputs, disk.case / "out"), disk.case.with_name("log"))
        code = run.wait()
        assert code != 0 or size >= after, f"{story}: exit code 0"
        if code != 0:
            failed += 1
            assert code == 1, f"{story}: {run.said()}"
            check_refusal(run, FULL, story)
            for path, content in contents(disk.case).items():
                is_final = not path.endswith(("/", *UNFINISHED)) and "/." not in path and "/checkpoints/" not in path
                if is_final and path not in GROWS:
                    assert content in (expected.get(path), earlier.get(path)), f"{story}: {path} is half-written"
        disk.resize(ROOMY)
        run = Started(command(name, inputs, disk.case / "out"), disk.case.with_name("log"))
        is_done = run.wait() == 0 or (code == 0 and DONE in run.last_line())  # some write no second time
        assert is_done, f"{story}, then with room: {run.said()}"
        assert not difference(contents(disk.case), expected), f"{story}, then with room"
    attack.note = f"{failed} failed in one line, the others had room; all were finished with room"


@pytest.mark.parametrize("name", WRITING if MINUTES else WRITES_AGAIN)
def test_what_is_there_stays_as_it_was_when_the_disk_is_full(inputs, disk, with_room, name):
    expected, _, _ = with_room(name)
    disk.renew()
    prepare_on(disk.case, name, inputs)
    run = Started(command(name, inputs, disk.case / "out"), disk.case.with_name("log"))
    assert run.wait() == 0, run.said()
    disk.resize(disk.used())
    run = Started(command(name, inputs, disk.case / "out"), disk.case.with_name("log"))
    if run.wait() != 0 and DONE not in run.last_line():
        check_refusal(run, FULL, name)
    found = contents(disk.case)
    kept = {path: found[path] for path in found if path in expected or "/." not in path}  # beside unfinished files
    assert not difference(kept, expected)


def lose_privileges() -> None:
    """Let permissions count for root too: without capabilities it is the owner of its files, and no more."""
    version, this_process = 0x20080522, 0
    header, nothing = struct.pack("Ii", version, this_process), bytes(24)
    if ctypes.CDLL(None).capset(header, nothing) != 0:
        raise OSError("The process cannot give up its capabilities.")


@pytest.mark.parametrize("name", WRITING)
def test_a_folder_without_permission_is_one_line(inputs, tmp_path, name):
    case, log = tmp_path / "case", tmp_path / "log"
    prepare([name], inputs, case / "out")
    (case / "out").mkdir(exist_ok=True)
    folders = [case, *(path for path in case.rglob("*") if path.is_dir())]
    before = contents(case)
    for folder in folders:
        folder.chmod(0o555)
    try:
        run = Started(command(name, inputs, case / "out"), log, lose_privileges)
        assert run.wait() == 1, run.said()
    finally:
        for folder in folders:
            folder.chmod(0o755)
    check_refusal(run, DENIED, name)
    assert contents(case) == before
    run = Started(command(name, inputs, case / "out"), log, lose_privileges)
    assert run.wait() == 0, run.said()
