"""A video of three hours takes hardly more memory than one of three minutes."""

import re
import subprocess
import sys

import pytest
from peak_memory import PEAK_MEMORY
from video_files import write_video
from video_models import save_models

SECONDS = 3 * 3600
PROGRAM = f"""
import sys
from polyvid.train import cli
try:
    cli.main(["search", *sys.argv[1:]])
finally:
    print({PEAK_MEMORY})
"""


@pytest.mark.slow
def test_three_hours_are_indexed_in_bounded_memory(tmp_path, monkeypatch):
    """Its frames, at the network's two a second and as small as it takes them, would be 66 MB; as stored, 300 MB."""
    save_models(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_video(tmp_path / "short.mp4", num_frames=180, fps=1)
    write_video(tmp_path / "long.mp4", num_frames=SECONDS, fps=1)

    def search(video: str) -> tuple[list[str], int]:
        command = [sys.executable, "-c", PROGRAM, video, "der hund", "--model", "model", "--workers", "0", "-k", "1000"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        *shown, peak = done.stdout.splitlines()
        return [line for line in shown if "mp4" in line], int(peak)

    _, of_minutes = search("short.mp4")
    hits, of_hours = search("long.mp4")
    assert len(hits) >= SECONDS // 32  # moments of 16 seconds without overlap, wherever the best ones lie
    assert any(re.search(r"  2:5\d:\d\d–", line) for line in hits), "the end was seen too"
    assert of_hours - of_minutes < 50e6
