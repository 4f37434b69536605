"""`make gpu` runs: here on the CPU in a small size, so that it cannot rot before it meets a GPU."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "benchmarks" / "gpu"


@pytest.mark.slow
def test_everything_of_make_gpu_runs_in_smoke_size(tmp_path):
    command = [sys.executable, str(SCRIPT), "--smoke", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (table,) = tmp_path.glob("*.md")
    text = table.read_text(encoding="utf-8")
    assert re.match(r"# CPU, smoke size, \d{4}-\d\d-\d\d\n", text) and "WRONG" not in text
    assert "| gradient under FSDP2 | right |" in text and "| pre-training, samples/s |" in text
    assert "polyvid plan" not in text  # figures of this size are no rates


def test_a_check_that_fails_is_seen(monkeypatch):
    """The tolerance is the check: two results that differ are not called right."""
    monkeypatch.syspath_prepend(str(SCRIPT))
    spec = importlib.util.spec_from_file_location("gpu_correctness", SCRIPT / "correctness.py")
    correctness = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(correctness)
    import torch

    expected = torch.ones(4, dtype=torch.float64)
    assert "differs" in correctness.near(expected.float(), expected, 1e-6)
    with pytest.raises(AssertionError, match="differs by"):
        correctness.near(expected * 1.01, expected, 1e-3)
    with pytest.raises(AssertionError, match="differs by"):
        correctness.near(expected * float("nan"), expected, 1e-3)
