"""Benchmarks that people expect today, read from files of the official formats."""

import json

import pytest
from benchmark_files import read, small
from newer_benchmark_files import write_activitynet, write_didemo, write_lsmdc, write_xm3600

from polyvid.dataset_scripts.protocols import XM3600_LANGUAGES
from polyvid.dataset_scripts.schema import LANGUAGES, canonical_language
from polyvid.modeling.errors_mmp import PolyvidError


def test_xm3600_has_36_languages_written_anew(tmp_path):
    assert len(set(XM3600_LANGUAGES)) == 36 and set(LANGUAGES) < set(XM3600_LANGUAGES)
    assert [canonical_language(code) for code in XM3600_LANGUAGES] == list(XM3600_LANGUAGES)
    write_xm3600(tmp_path, list(XM3600_LANGUAGES), 2, 4 * 36 - 1)
    images = small("xm3600", tmp_path)["test"]
    assert list(images) == [f"{n:016x}" for n in range(2)]
    assert images[f"{0:016x}"][:3] == [
        ("en0", "en", "en 0 of 0", "human"),
        ("de0", "de", "de 0 of 0", "human"),
        ("de1", "de", "de 1 of 0", "human"),
    ]
    assert [c[1] for c in small("xm3600", tmp_path, languages=["quz", "sw"])["test"][f"{1:016x}"]] == [
        "sw", "sw", "quz", "quz",
    ]  # fmt: skip


@pytest.mark.slow
def test_xm3600_asserts_its_261_375_captions(tmp_path):
    write_xm3600(tmp_path, list(XM3600_LANGUAGES), 3600, 2 * 3600 * 36)
    with pytest.raises(PolyvidError, match="expected 261,375 captions in all, found 259,200"):
        read("xm3600", tmp_path)
    assert len(read("xm3600", tmp_path, languages=["sw"])["test"]) == 3600  # of one language no count is stated


def test_a_line_that_is_no_image_is_named(tmp_path):
    (tmp_path / "captions.jsonl").write_text('{"image/key": "a", "en": {"caption": ["x"]}}\n{"en": 3}\n')
    with pytest.raises(PolyvidError, match="captions.jsonl, line 2: not an image of XM3600"):
        small("xm3600", tmp_path)


def test_activitynet_is_searched_by_paragraphs(tmp_path):
    write_activitynet(tmp_path, 10_009, 4_917)
    splits = read("activitynet", tmp_path)
    assert {split: len(videos) for split, videos in splits.items()} == {"train": 10_009, "test": 4_917}
    assert splits["test"]["v_val_100003"] == [
        ("paragraph", "en", "A man sits down in 3. He stands up again.", "human")
    ]  # fmt: skip
    (tmp_path / "val_1.json").write_text(json.dumps({"v_a": {"text": "no sentences"}}))
    with pytest.raises(PolyvidError, match="val_1.json: not a file of ActivityNet Captions .KeyError"):
        read("activitynet", tmp_path, splits="test")


def test_didemo_is_searched_by_paragraphs_of_the_videos_on_its_lists(tmp_path):
    write_didemo(tmp_path, {"train": 8392, "val": 1065, "test": 1004})
    splits = read("didemo", tmp_path)
    assert {split: len(videos) for split, videos in splits.items()} == {"train": 8392, "validation": 1065, "test": 1004}
    assert splits["test"]["1@N02_test_0af7c6"] == [("paragraph", "en", "moment 0 of 1 moment 1 of 1", "human")]
    (tmp_path / "test_list.txt").unlink()  # then all videos of the file, one too many here
    with pytest.raises(PolyvidError, match="expected 1,004 videos, found 1,005"):
        read("didemo", tmp_path, splits="test")


def test_lsmdc_is_a_table_between_tabs(tmp_path):
    write_lsmdc(tmp_path, 1000)
    splits = read("lsmdc", tmp_path)
    assert {split: len(videos) for split, videos in splits.items()} == {"train": 2, "validation": 1, "test": 1000}
    assert [c[2] for c in splits["train"]["0001_American_Beauty_00.00.51"]] == [
        "SOMEONE turns 51.",
        "SOMEONE smiles 51.",
    ]
    assert splits["test"]["1010_TITANIC_000007"] == [("0", "en", 'SOMEONE sees "it", 7.', "human")]
    (tmp_path / "LSMDC16_annos_val.csv").write_text("a\tb\n")
    with pytest.raises(PolyvidError, match="LSMDC16_annos_val.csv, line 1: 2 columns, not 6 between tabs"):
        read("lsmdc", tmp_path, splits="validation")
