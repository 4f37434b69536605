"""Fluent-Emoji-9 in further styles: the packages of drawings, the clips made from them, and the protocols."""

import csv
import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import pytest
from datasets import DownloadManager

from polyvid.dataset_scripts import fetch as fetching
from polyvid.dataset_scripts.building import load_builder
from polyvid.dataset_scripts.fluent_emoji_9 import build, styles
from polyvid.dataset_scripts.fluent_emoji_9.fluent_emoji_9 import STYLES, clip_path
from polyvid.dataset_scripts.packages import NpmPackage
from polyvid.modeling.errors_mmp import PolyvidError

CONCEPTS = {"1f418": "elephant", "23-20e3": "keycap-hash", "1f415-200d-1f9ba": "service-dog"}
COLORS = {"elephant": "#00f", "keycap-hash": "#0a0", "service-dog": "#c00"}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def iconify(file: Path, prefix: str, left_out: str = "", broken: str = "", body: str = "<g/>") -> NpmPackage:
    """A package of drawings, as npm packs those of Iconify: colored squares on a canvas of 36 × 36."""
    icons = {name: {"body": f'<path fill="{color}" d="M9 9h18v18h-18z"/>'} for name, color in COLORS.items()}
    if broken:
        icons[broken] = {"body": body}
    characters = {"1f418": "elephant", "23-fe0f-20e3": "keycap-hash", "1f415-200d-1f9ba": "service-dog"}
    characters = {key: name for key, name in characters.items() if name != left_out}
    contents = {
        "icons.json": {"prefix": prefix, "icons": icons, "aliases": {}, "width": 36, "height": 36},
        "chars.json": characters,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:gz") as archive:
        for name, content in contents.items():
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return NpmPackage(f"@iconify-json/{prefix}", "1.0.0", hashlib.sha256(file.read_bytes()).hexdigest())


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry in small, and three emoji in place of 1,607. Returns the folder that it serves."""
    pytest.importorskip("resvg_py", reason="pip install 'polyvid[open-data]'")
    served = tmp_path / "registry"
    for name, style in styles.STYLES.items():
        package = iconify(served / "@iconify-json" / name / "-" / f"{name}-1.0.0.tgz", name)
        monkeypatch.setitem(styles.STYLES, name, type(style)(**{**vars(style), "package": package}))
    here = tmp_path / "dataset"
    (here / "clips").mkdir(parents=True)
    shutil.copy(build.HERE / "LICENSE-animations", here)
    with open(here / "splits.csv", "w", newline="") as file:
        csv.writer(file).writerows([["video_id"], *([concept] for concept in CONCEPTS)])
    for concept in CONCEPTS:
        shutil.copy(build.HERE / "clips" / f"{concept}.mp4", here / "clips")
    monkeypatch.setattr(styles, "HERE", here)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}/")
    yield served
    server.shutdown()


def fetch(output, *given):
    fetching.fetch("fluent_emoji_9", output, list(given), workers=1)


def test_every_style_is_fetched_and_drawn_into_a_folder_of_its_own(registry, tmp_path):
    fetch(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == sorted(STYLES)
    for style in STYLES:
        assert all(clip_path(tmp_path / "out", style, concept).exists() for concept in CONCEPTS)
    assert "CC BY-SA 4.0" in (tmp_path / "out" / "openmoji" / "ATTRIBUTION.md").read_text(encoding="utf-8")


def test_a_drawing_becomes_a_clip_of_one_frame_on_white(registry, tmp_path):
    fetch(tmp_path / "out")
    with av.open(str(clip_path(tmp_path / "out", "noto", "1f418"))) as container:
        (frame,) = container.decode(video=0)
    picture = frame.to_ndarray(format="rgb24")
    assert picture.shape == (224, 224, 3)
    assert picture[2, 2].min() > 245  # the canvas
    red, green, blue = picture[112, 112].tolist()
    assert red < 30 and green < 30 and blue > 220  # the square, #00f


def test_what_is_there_is_kept_and_needs_no_network(registry, tmp_path, monkeypatch):
    fetch(tmp_path / "out")
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9/")
    fetch(tmp_path / "out")


def test_a_package_that_is_not_to_be_had_says_how_to_get_it_and_the_others_are_made(registry, tmp_path):
    (registry / "@iconify-json" / "noto" / "-" / "noto-1.0.0.tgz").unlink()
    with pytest.raises(PolyvidError) as caught:
        fetch(tmp_path / "out")
    message = str(caught.value)
    assert message.startswith("Noto Emoji: http://127.0.0.1:") and "cannot be fetched" in message
    assert "`npm pack @iconify-json/noto@1.0.0`" in message and "--package iconify-json-noto-1.0.0.tgz" in message
    assert clip_path(tmp_path / "out", "openmoji", "1f418").exists()
    assert not (tmp_path / "out" / "noto").exists()


def test_a_package_may_be_given_as_a_file(registry, tmp_path):
    served = registry / "@iconify-json" / "noto" / "-" / "noto-1.0.0.tgz"
    given = shutil.move(served, tmp_path / "iconify-json-noto-1.0.0.tgz")
    fetch(tmp_path / "out", Path(given))
    assert clip_path(tmp_path / "out", "noto", "1f418").exists()
    (wrong := tmp_path / "noto.tgz").touch()
    with pytest.raises(PolyvidError, match="noto.tgz is none of the packages that are read: iconify-json-noto-1.0.0"):
        fetch(tmp_path / "again", wrong)


def test_another_version_of_a_package_is_refused_with_both_checksums(registry, tmp_path):
    iconify(registry / "@iconify-json" / "twemoji" / "-" / "twemoji-1.0.0.tgz", "twemoji", broken="elephant")
    with pytest.raises(PolyvidError, match=r"Twemoji: .* expected SHA-256 \w{64}, found \w{64}"):
        fetch(tmp_path / "out")


def test_a_package_that_lacks_a_concept_is_refused_with_both_counts(registry, tmp_path, monkeypatch):
    file = registry / "@iconify-json" / "twemoji" / "-" / "twemoji-1.0.0.tgz"
    package = iconify(file, "twemoji", left_out="service-dog")
    style = styles.STYLES["twemoji"]
    monkeypatch.setitem(styles.STYLES, "twemoji", type(style)(**{**vars(style), "package": package}))
    with pytest.raises(PolyvidError, match="expected drawings of 3 concepts, found 2; .* missing is 1f415-200d-1f9ba"):
        fetch(tmp_path / "out")


@pytest.mark.parametrize(
    ("body", "reason"), [("<g/>", "there is nothing to see in it"), ("<path d='M9 9'", "it cannot be drawn: ")]
)
def test_a_drawing_that_shows_nothing_or_cannot_be_drawn_is_named(registry, tmp_path, monkeypatch, body, reason):
    file = registry / "@iconify-json" / "twemoji" / "-" / "twemoji-1.0.0.tgz"
    package = iconify(file, "twemoji", broken="elephant", body=body)
    style = styles.STYLES["twemoji"]
    monkeypatch.setitem(styles.STYLES, "twemoji", type(style)(**{**vars(style), "package": package}))
    with pytest.raises(PolyvidError, match=rf"1 of 3 pictures failed, .* twemoji_1f418 \({reason}"):
        fetch(tmp_path / "out")
    assert clip_path(tmp_path / "out", "twemoji", "23-20e3").exists()
    assert clip_path(tmp_path / "out", "openmoji", "1f418").exists()  # the styles after it are made


# --- protocols -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def styles_folder(tmp_path_factory):
    """What `polyvid fetch` leaves, with empty clips."""
    folder = tmp_path_factory.mktemp("styles")
    with open(build.HERE / "splits.csv", newline="") as file:
        concepts = [row["video_id"] for row in csv.DictReader(file)]
    for style in STYLES[1:]:
        (folder / style).mkdir()
        for concept in concepts:
            clip_path(folder, style, concept).touch()
    return folder


def splits_of(config, folder=None):
    """Split → its rows, as they are converted; a stream of them would take twice the time."""
    builder = load_builder("fluent_emoji_9")(config_name=config, data_dir=folder and str(folder))
    return {
        str(split.name): [row for _, row in builder._generate_examples(**split.gen_kwargs)]
        for split in builder._split_generators(DownloadManager())
    }


@pytest.fixture(scope="module")
def unseen(styles_folder):
    return splits_of("unseen_style", styles_folder)


def styles_of(videos):
    return Counter(video["video_id"].partition("_")[0] if "_" in video["video_id"] else "fluent" for video in videos)


def test_the_unseen_style_is_tested_and_never_trained_on(unseen):
    assert styles_of(unseen["pretrain"]) == {"fluent": 637, "twemoji": 637, "openmoji": 637}
    assert styles_of(unseen["finetune"]) == {"fluent": 400, "twemoji": 400, "openmoji": 400}
    assert styles_of(unseen["validation"]) == {"fluent": 150}
    assert styles_of(unseen["test"]) == {"noto": 420}


@pytest.mark.slow
def test_four_styles_train_on_1037_concepts_and_are_tested_style_by_style(styles_folder):
    splits = splits_of("four_styles", styles_folder)
    training = splits["pretrain"] + splits["finetune"]
    assert styles_of(training) == dict.fromkeys(STYLES, 1037)
    tests = {name: styles_of(videos) for name, videos in splits.items() if name.startswith("test")}
    assert tests == {
        "test": {"fluent": 420},
        "test_noto": {"noto": 420},
        "test_twemoji": {"twemoji": 420},
        "test_openmoji": {"openmoji": 420},
    }


def test_styles_share_concepts_captions_and_families(unseen):
    fluent = {video["video_id"]: video for video in splits_of("split_0")["test"]}
    for video in unseen["test"]:
        twin = fluent[video["video_id"].removeprefix("noto_")]
        assert (video["captions"], video["family"]) == (twin["captions"], twin["family"])
    trained = {video["family"] for video in unseen["pretrain"]}
    assert trained.isdisjoint(video["family"] for video in unseen["test"])


def test_fluent_itself_is_found_by_a_model_that_trained_on_the_fetched_styles(styles_folder):
    """The folder of its recipe holds clips alone; captions, splits and the clips in Fluent are in the package."""
    found, embedded = (splits_of("split_0", folder)["test"] for folder in (styles_folder, None))
    assert found == embedded and len(found) == 420


@pytest.mark.parametrize("folder", [None, "empty"])
def test_without_the_clips_the_message_says_which_command_makes_them(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match="needs the clips in the style noto: run `polyvid fetch fluent_emoji_9`"
    ):
        splits_of("unseen_style", folder and tmp_path / folder)
