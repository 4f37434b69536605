"""Tux-8: the stamps of Tux Paint, from Debian's package to videos with captions."""

import shutil
import subprocess
from pathlib import Path

import av
import pyarrow.parquet as pq
import pytest
from PIL import Image

from polyvid.dataset_scripts.building import load_builder, write_dataset
from polyvid.dataset_scripts.clips import write_stills
from polyvid.dataset_scripts.fetch import fetch
from polyvid.dataset_scripts.protocols import protocols_of
from polyvid.dataset_scripts.tux8 import stamps
from polyvid.modeling.errors_mmp import PolyvidError

OTHERS = ("de", "fr", "cs", "zh_CN", "ru", "vi", "es")
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="120pt" height="60pt"><path fill="{}" d="M0 0h120v60h-120z"/></svg>'
)


def write_stamp(folder: Path, name: str, english: str, languages=OTHERS, picture="png", color="red") -> None:
    """A picture twice as wide as high, and its captions in the format of Tux Paint."""
    file = folder / f"{name}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    captions = "".join(f"{language}.utf8={english} ({language})\n" for language in languages)
    file.write_text(f"{english}\n{captions}", encoding="utf-8")
    if "png" in picture:
        Image.new("RGBA", (40, 20), color).save(file.with_suffix(".png"))
    if "svg" in picture:
        file.with_suffix(".svg").write_text(SVG.format(color))
    file.with_suffix(".ogg").write_bytes(b"a sound")


@pytest.fixture
def folder(tmp_path):
    """Stamps as the package installs them: of six, three make the protocol of eight languages."""
    folder = tmp_path / stamps.INSTALLED
    write_stamp(folder, "animals/birds/swan", "A swan.", (*OTHERS, "sw", "sr@latin", "q_y"))
    write_stamp(folder, "food/cartoon/apple", "An apple.", picture="png svg", color="green")
    write_stamp(folder, "household/spoon", "A spoon.", picture="svg", color="blue")
    write_stamp(folder, "town/house", "A house.", ("de", "fr"))
    write_stamp(folder, "town/swan", "A swan.")
    write_stamp(folder, "symbols/numbers/1", "One.")
    (folder / "town" / "without_picture.txt").write_text("Nothing.\n")
    return tmp_path


@pytest.fixture
def fetched(folder, tmp_path):
    pytest.importorskip("resvg_py", reason="pip install 'polyvid[open-data]'")
    fetch("tux8", tmp_path / "out", [folder], workers=1)
    return tmp_path / "out"


def videos_of(folder, config, **options):
    builder = load_builder("tux8")(config_name=config, data_dir=str(folder), check_counts=False, **options)
    return {video["video_id"]: video for video in builder.as_streaming_dataset()["test"]}


def test_symbols_and_repeated_captions_are_left_out(fetched):
    clips = sorted(path.stem for path in (fetched / "clips").iterdir())
    assert clips == ["animals-birds-swan", "food-cartoon-apple", "household-spoon", "town-house"]
    assert sorted(videos_of(fetched, "tux_all")) == clips


def test_a_protocol_holds_the_stamps_with_captions_in_all_of_its_languages(fetched):
    assert set(videos_of(fetched, "tux8")) == {"animals-birds-swan", "food-cartoon-apple", "household-spoon"}
    assert set(videos_of(fetched, "tux_sw")) == {"animals-birds-swan"}
    (swan,) = videos_of(fetched, "tux_sw").values()
    assert {caption["language"]: caption["text"] for caption in swan["captions"]} == {
        "en": "A swan.",
        **{language.split("_")[0]: f"A swan. ({language})" for language in (*OTHERS, "sw")},
    }
    assert {caption["source"] for caption in swan["captions"]} == {"human"}


def test_codes_that_are_no_language_are_kept_and_listed(folder, tmp_path, capsys):
    pytest.importorskip("resvg_py", reason="pip install 'polyvid[open-data]'")
    fetch("tux8", tmp_path / "out", [folder], workers=1)
    printed = capsys.readouterr().out
    assert "Codes that are no language, kept as they are: q_y\n" in printed
    assert "4 clips, 30 captions in 11 languages" in printed
    rows = pq.read_table(tmp_path / "out" / "captions.parquet").to_pylist()
    assert {row["language"] for row in rows if row["video_id"] == "animals-birds-swan"} >= {"zh", "sr-Latn", "q_y"}


def test_photos_and_drawings_are_told_apart(fetched):
    kinds = {name: video["kind"] for name, video in videos_of(fetched, "tux8").items()}
    assert kinds == {"animals-birds-swan": "photo", "food-cartoon-apple": "drawing", "household-spoon": "drawing"}


@pytest.mark.parametrize(("name", "color"), [("household-spoon", (0, 0, 255)), ("animals-birds-swan", (255, 0, 0))])
def test_a_picture_keeps_its_proportions_on_a_white_square(fetched, name, color):
    """The spoon is an SVG measured in points, which has no size in pixels."""
    with av.open(str(fetched / "clips" / f"{name}.mp4")) as container:
        (frame,) = container.decode(video=0)
    picture = frame.to_ndarray(format="rgb24").astype(int)
    assert picture.shape == (224, 224, 3)
    assert abs(picture[112, 112] - color).max() < 30
    assert picture[40, 112].min() > 240 and picture[184, 112].min() > 240  # above and below: white
    assert abs(picture[70, 10] - color).max() < 30


def test_a_white_picture_is_put_on_grey(tmp_path):
    write_stamp(tmp_path, "lightning", "A lightning bolt.", color="white")
    picture = stamps.draw(tmp_path / "lightning.png")
    assert picture.getpixel((112, 112)) == (255, 255, 255) and picture.getpixel((112, 10)) == (128, 128, 128)


def test_the_debian_package_gives_the_same_as_the_folder_that_it_installs(folder, fetched, tmp_path):
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb here")
    tree = tmp_path / "tree"
    shutil.copytree(folder / "usr", tree / "usr")
    (tree / "DEBIAN").mkdir()
    control = "Package: tuxpaint-stamps-default\nVersion: 1\nArchitecture: all\nMaintainer: x <x@y>\nDescription: x\n"
    (tree / "DEBIAN" / "control").write_text(control)
    subprocess.run(["dpkg-deb", "--build", str(tree), str(tmp_path / "stamps.deb")], check=True, capture_output=True)
    fetch("tux8", tmp_path / "other", [tmp_path / "stamps.deb"], workers=1)
    assert pq.read_table(tmp_path / "other" / "captions.parquet") == pq.read_table(fetched / "captions.parquet")
    assert sorted(path.name for path in (tmp_path / "other").iterdir() if path.name[0] != ".") == [
        "captions.parquet",
        "clips",
    ]


def test_two_stamps_with_one_id_are_named(tmp_path):
    for name in ("a-b/c", "a/b-c"):
        write_stamp(tmp_path, name, f"This is {name}.")
    with pytest.raises(PolyvidError, match="c.txt has the same id as .*b-c.png: a-b-c. Rename one"):
        stamps.read_stamps(tmp_path)


def test_a_package_that_complains_much_does_not_stop_its_reader(tmp_path, monkeypatch):
    """A program that writes more than a pipe holds to both of its ends waited for ever."""
    program = tmp_path / "dpkg-deb"
    program.write_text(
        "#!/bin/sh\nhead -c 300000 /dev/zero | tr '\\0' x >&2\nhead -c 300000 /dev/zero | tr '\\0' x\nexit 2\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(PolyvidError, match="x.deb cannot be unpacked"):
        stamps.unpack(tmp_path / "x.deb", tmp_path / "out")


def test_another_version_of_the_package_is_refused_with_both_counts(fetched):
    builder = load_builder("tux8")(data_dir=str(fetched))
    with pytest.raises(PolyvidError, match="expected 461 videos, found 3; expected 461 captions .en., found 3"):
        builder.as_streaming_dataset()


def test_the_parquet_folder_holds_the_clips_themselves(fetched, tmp_path):
    builder = load_builder("tux8")(config_name="tux_sw", data_dir=str(fetched), check_counts=False)
    assert write_dataset(builder, tmp_path / "hub") == {"test": 1}
    (row,) = pq.read_table(next((tmp_path / "hub" / "tux_sw").glob("*.parquet"))).to_pylist()
    assert row["clip"] == (fetched / "clips" / "animals-birds-swan.mp4").read_bytes()
    assert (row["category"], row["kind"]) == ("animals", "photo")


def test_what_is_no_package_is_refused_in_one_line(tmp_path):
    (wrong := tmp_path / "x.deb").write_text("no package")
    (tmp_path / "empty").mkdir()
    for given, message in (
        (tmp_path / "nothing.deb", "There is no package"),
        (wrong, "x.deb cannot be unpacked .*: delete it, and get it again" if shutil.which("dpkg-deb") else "dpkg-deb"),
        (tmp_path / "empty", "There are no stamps in"),
    ):
        with pytest.raises((PolyvidError, FileNotFoundError), match=message):
            fetch("tux8", tmp_path / "out", [given], workers=1)
    assert not (tmp_path / "out" / "captions.parquet").exists()


def test_what_a_killed_run_left_goes_at_the_next_start(folder, tmp_path):
    unpacked = tmp_path / "out" / f"{stamps.SCRATCH}7"
    unpacked.mkdir(parents=True)
    fetch("tux8", tmp_path / "out", [folder], workers=1)
    assert not unpacked.exists()
    package = tmp_path / "out" / "package"  # of a run killed after its last file, before it removed the package
    package.mkdir()
    (package / "stamps.deb").write_bytes(b"")
    fetch("tux8", tmp_path / "out")
    assert not package.exists()


def test_where_there_is_no_apt_the_message_says_how_to_get_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        PolyvidError, match="no apt-get here .* `apt-get download tuxpaint-stamps-default` .* --package"
    ):
        fetch("tux8", tmp_path / "out")


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_made(folder, tmp_path):
    pytest.importorskip("resvg_py", reason="pip install 'polyvid[open-data]'")
    (folder / stamps.INSTALLED / "town" / "house.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(PolyvidError, match=r"1 of 4 pictures failed, the first is town-house \(it cannot be read"):
        fetch("tux8", tmp_path / "out", [folder], workers=1)
    assert len(list((tmp_path / "out" / "clips").iterdir())) == 3


def test_a_drawing_that_cannot_be_drawn_is_named_and_counted(folder, tmp_path):
    pytest.importorskip("resvg_py", reason="pip install 'polyvid[open-data]'")
    drawing = folder / stamps.INSTALLED / "household" / "spoon.svg"
    drawing.write_text(drawing.read_text()[:80])
    message = r"tux8: 1 of 4 pictures failed, the first is household-spoon \(it cannot be drawn: "
    for _ in range(2):  # nothing marks the second run as complete
        with pytest.raises(PolyvidError, match=message):
            fetch("tux8", tmp_path / "out", [folder], workers=1)
    assert len(list((tmp_path / "out" / "clips").iterdir())) == 3


@pytest.mark.slow
def test_several_processes_draw_what_one_draws(tmp_path):
    colors = {f"{number:03d}": (number, 255 - number, 128) for number in range(0, 250)}
    for name, color in colors.items():
        Image.new("RGB", (4, 2), color).save(tmp_path / f"{name}.png")
    for folder, workers in (("one", 1), ("three", 3)):
        pictures = {tmp_path / folder / f"{name}.mp4": tmp_path / f"{name}.png" for name in colors}
        assert write_stills(pictures, stamps.draw, folder, workers) == 250
    for name in colors:
        assert (tmp_path / "one" / f"{name}.mp4").read_bytes() == (tmp_path / "three" / f"{name}.mp4").read_bytes()


def test_protocols_are_nested_and_tested_only():
    protocols = protocols_of("tux8")
    assert {name: list(protocol.splits) for name, protocol in protocols.items()} == {
        "tux8": ["test"],
        "tux_sw": ["test"],
        "tux_all": ["test"],
    }
    every = protocols["tux_all"].splits["test"]
    assert len(every.captions) == 69 and min(every.captions.values()) >= 100
    assert max(every.captions.values()) == every.videos == 626


def test_a_dataset_without_packages_has_nothing_to_fetch(tmp_path):
    with pytest.raises(PolyvidError, match="Nothing to fetch for 'msrvtt': choose from fluent_emoji_9 tux8"):
        fetch("msrvtt", tmp_path)
