"""The wheel, installed in a new environment without the checkout: complete, and with nothing beside `polyvid`."""

import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import polyvid

CHECKOUT = Path(polyvid.__file__).parent
pytestmark = pytest.mark.slow

# Read in the checkout or on the Hub, never by the package.
NOT_SHIPPED = tuple(
    f"polyvid/hub_cards/{name}"
    for name in ("docs/", "mkdocs", "results/ablation/", "space/screenshot.png", "notebooks/", "mteb/README.md")
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves files behind, and takes what an earlier one left
    skipped = shutil.ignore_patterns(".*", "build", "dist", "outputs", "*.egg-info", "__pycache__", "shared")
    shutil.copytree(CHECKOUT, source, ignore=skipped)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(source)
    return next(folder.glob("polyvid-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Run Python in an environment that has the wheel, and this one's other packages, in an empty folder."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    packages = Path(run(python, "-c", "import site; print(site.getsitepackages()[0])").stdout.strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    for other in site.getsitepackages():  # as a plain path: the .pth files in it, so this checkout, are not read
        (packages / "others.pth").write_text(f"{other}\n")
    (folder / "work").mkdir()

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run(python, *arguments, cwd=folder / "work")

    start.packages = packages
    return start


def run(python: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_it_holds_every_file_of_the_package_that_git_knows(wheel):
    tracked = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    rooms = ("modeling/", "dataset_scripts/", "train/", "hub_cards/")
    wanted = {f"polyvid/{name}" for name in tracked.stdout.splitlines() if name.startswith(rooms)}
    wanted = {name for name in wanted if not name.startswith(NOT_SHIPPED) and (CHECKOUT / name[8:]).exists()}
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    assert len([name for name in held if name.endswith(".mp4")]) == 1607
    assert sorted(wanted - held) == []
    top = {name.split("/")[0] for name in held}
    assert top == {"polyvid", next(name for name in top if name.endswith(".dist-info"))}
    assert {name.split("/")[1] for name in held if name.startswith("polyvid/")} == {
        *("__init__.py", "__main__.py", "py.typed"),
        *("modeling", "dataset_scripts", "train", "hub_cards"),
    }
    assert not any(part in name for name in held for part in ("/tests/", "__pycache__", ".lock"))


# Programs of a Space, next to which their own copies of what they import are put.
SPACE = tuple(f"polyvid.hub_cards.space.{name}" for name in ("app", "render", "search", "watch"))
ALONE = (*SPACE, "polyvid.train.scoring.text_video_retrieval.")
ALONE += tuple(  # what only makes sense within a library that is missing here
    module
    for library, module in (
        ("sentence_transformers", "polyvid.modeling.sentence_transformer_mmp"),
        ("mteb", "polyvid.hub_cards.mteb."),
    )
    if find_spec(library) is None
)


def test_every_module_can_be_imported_from_it(installed):
    program = f"""
import importlib, pkgutil, polyvid
names = [module.name for module in pkgutil.walk_packages(polyvid.__path__, "polyvid.")]
names = [name for name in names if not name.endswith("__main__") and not name.startswith({ALONE!r})]
for name in names:
    importlib.import_module(name)
print(len(names), polyvid.__file__)
for name in polyvid.__all__:
    getattr(polyvid, name)
"""
    count, origin = installed("-c", program).stdout.split()
    assert int(count) > 60 and Path(origin).is_relative_to(installed.packages)


def test_its_commands_run_without_the_checkout(installed):
    program = "from polyvid.__main__ import main; main({!r})"
    assert installed("-c", program.format(["--version"])).stdout.startswith("polyvid ")
    assert "Usage: polyvid demo" in installed("-c", program.format(["demo", "--help"])).stdout
    recipe = "import polyvid; print(polyvid.load_recipe('demo/mmp').name)"
    assert installed("-c", recipe).stdout.strip() == "mmp"


def test_the_embedded_dataset_is_built_from_it(installed):
    build = ["build", "fluent_emoji_9", "split_0", "--output-dir", "out"]
    program = f"""
from pathlib import Path
from polyvid.__main__ import main
import polyvid.dataset_scripts.fluent_emoji_9 as data
main([*{build!r}, "--data-dir", str(Path(data.__file__).parent)])
"""
    before = sorted(path for path in installed.packages.rglob("*") if "__pycache__" not in path.parts)
    assert "split_0: built" in installed("-c", program).stdout
    after = sorted(path for path in installed.packages.rglob("*") if "__pycache__" not in path.parts)
    assert after == before, "a command writes into the installed package"
