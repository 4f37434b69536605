"""The default environment has datasets 3.6, which runs loading scripts; here the same tests run with the newest.

A second environment, `.venv-datasets-newest/` next to this one, holds nothing but the newest datasets and sees all the
rest (torch above all) through a path file. It is made once and kept; delete the folder to make it again. Where it
cannot be made, the test fails: nothing else would notice that a new release of datasets broke the builders.
"""

import site
import subprocess
import venv
from pathlib import Path

import datasets
import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-datasets-newest"
SENSITIVE = [
    "test_multi_howto100m.py",
    "test_howto100m_streaming.py",
    "test_features.py",
    "test_benchmarks.py",
    "test_newer_benchmarks.py",
    "test_c2kd.py",
    "test_emoji_styles.py",
    "test_tux8.py",
]


def run(*command: str) -> str:
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-6000:]}{done.stderr[-3000:]}"
    return done.stdout


def newest_environment() -> Path:
    """The Python of the second environment."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "complete").exists():
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        packages = run(python, "-c", "import site; print(site.getsitepackages()[0])").strip()
        parents = "; ".join(f"site.addsitedir({path!r})" for path in site.getsitepackages())
        Path(packages, "parent.pth").write_text(f"import site; {parents}\n")
        run(python, "-m", "pip", "install", "--quiet", "--upgrade", "datasets")
        (ENVIRONMENT / "complete").touch()
    return python


@pytest.mark.slow
@pytest.mark.skipif(int(datasets.__version__.split(".")[0]) >= 4, reason="this environment has no older datasets")
def test_everything_that_touches_datasets_also_works_with_the_newest():
    python = newest_environment()
    version = run(python, "-c", "import datasets; print(datasets.__version__)")
    assert int(version.split(".")[0]) >= 4, f"found datasets {version}"
    files = [str(Path(__file__).with_name(name)) for name in SENSITIVE]
    report = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *files)
    assert " passed" in report
