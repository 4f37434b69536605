"""VTT under its four protocols, in English and in nine languages."""

import json

import pytest
from benchmark_files import read, small, write_small_msrvtt, write_test_pairs

from polyvid.dataset_scripts import protocols
from polyvid.dataset_scripts.building import load_builder, write_dataset
from polyvid.dataset_scripts.schema import LANGUAGES


@pytest.fixture
def vtt(tmp_path):
    return write_small_msrvtt(tmp_path / "msrvtt")


def test_vtt_1k_a_trains_on_the_official_train_split_and_tests_on_the_list(vtt):
    splits = small("msrvtt", vtt)
    assert {split: list(rows) for split, rows in splits.items()} == {
        "train": [f"video{n}" for n in range(6)],
        "validation": ["video6", "video7"],
        "test": ["video9", "video11"],
    }
    assert splits["test"]["video9"] == [("ret0", "en", "caption 2 of clip 9", "human")]
    assert len(splits["train"]["video0"]) == 20
    assert splits["train"]["video0"][:2] == [
        ("1", "en", "caption 0 of clip 0", "human"),
        ("0", "en", "caption 1 of clip 0", "human"),
    ]


def test_other_vtt_protocols_share_no_video_between_train_and_test(vtt):
    expected = {"7k": (8, 2), "9k": (10, 2), "official": (6, 4)}
    for name, (train, test) in expected.items():
        splits = small("msrvtt", vtt, name)
        assert (len(splits["train"]), len(splits["test"])) == (train, test), name
        assert not splits["train"].keys() & splits["test"].keys()


def test_the_merged_vtt_file_gives_the_same_rows(vtt, tmp_path):
    merged = write_small_msrvtt(tmp_path / "merged", merged=True)
    for name in protocols.protocols_of("msrvtt"):
        assert small("msrvtt", merged, name) == small("msrvtt", vtt, name)


def test_wrong_counts_are_refused_with_expected_found_and_the_way_out_and_nothing_is_written(vtt, tmp_path):
    builder = load_builder("msrvtt")(data_dir=str(vtt))
    with pytest.raises(ValueError) as error:
        write_dataset(builder, tmp_path / "out")
    message = str(error.value)
    assert "msrvtt train, protocol '1k-A': expected 6,513 videos, found 6" in message
    assert "expected 130,260 captions (en), found 120" in message
    assert str(vtt) in message and "check_counts=False" in message
    assert not list((tmp_path / "out").rglob("*.parquet"))
    builder = load_builder("msrvtt")(data_dir=str(vtt), check_counts=False)
    assert write_dataset(builder, tmp_path / "out") == {"train": 6, "validation": 2, "test": 2}


def test_a_missing_file_is_named_and_one_split_can_be_built_alone(tmp_path):
    write_test_pairs(tmp_path, [9])
    with pytest.raises(FileNotFoundError, match=r"no train_val_videodatainfo.json .*splits="):
        small("msrvtt", tmp_path)
    assert list(small("msrvtt", tmp_path, splits=["test"])) == ["test"]
    with pytest.raises(ValueError, match="no split 'val': choose from train validation test"):
        small("msrvtt", tmp_path, splits=["val"])
    with pytest.raises(FileNotFoundError, match="pass data_dir"):
        load_builder("msrvtt")(splits=["test"])._split_generators(None)


def test_a_broken_official_file_is_named(vtt):
    (vtt / "train_val_videodatainfo.json").write_text('{"videos": [{"video_id": "video0"')
    with pytest.raises(ValueError, match="train_val_videodatainfo.json is not valid JSON"):
        small("msrvtt", vtt)
    (vtt / "train_val_videodatainfo.json").write_text('{"videos": [{"video_id": "video0"}], "sentences": []}')
    with pytest.raises(ValueError, match="train_val_videodatainfo.json: not an MSR-VTT annotation file, 'split'"):
        small("msrvtt", vtt)
    (vtt / "MSRVTT_JSFUSION_test.csv").write_text("video,text\nvideo9,hello\n")
    with pytest.raises(ValueError, match="columns key, vid_key, video_id, sentence"):
        small("msrvtt", vtt, splits=["test"])


# --- nine languages ----------------------------------------------------------------------------------------------


def translated(rows, language):
    """What `polyvid translate` writes: one row a caption, same ids."""
    return [
        {"video_id": v, "caption_id": i, "language": language, "text": f"{language}:{text}", "source": "model@abc"}
        for video in rows.values()
        for v, captions in video.items()
        for i, _, text, _ in captions
    ]


def test_vtt_in_nine_languages_is_aligned_by_sentence_id(vtt, tmp_path):
    english = small("msrvtt", vtt)
    folder = tmp_path / "translations"
    folder.mkdir()
    for language in LANGUAGES[1:]:
        lines = [json.dumps(row, ensure_ascii=False) for row in reversed(translated(english, language))]
        (folder / f"{language}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    splits = small("msrvtt", vtt, languages="all", translations=str(folder))
    for split, videos in splits.items():
        for video_id, captions in videos.items():
            original = {caption_id: text for caption_id, _, text, _ in english[split][video_id]}
            assert len(captions) == 9 * len(original)
            for caption_id, language, text, source in captions:
                expected = original[caption_id] if language == "en" else f"{language}:{original[caption_id]}"
                assert (text, source) == (expected, "human" if language == "en" else "model@abc")
    only_czech = small("msrvtt", vtt, languages=["cz"], translations=str(folder), splits="test")
    assert only_czech["test"]["video9"] == [("ret0", "cs", "cs:caption 2 of clip 9", "model@abc")]


def test_translations_circulate_as_lists_by_video_in_the_order_of_the_english_captions(vtt, tmp_path):
    english = small("msrvtt", vtt)
    folder = tmp_path / "translations"
    folder.mkdir()
    both = {**english["train"], **english["validation"]}
    lists = {f"{v}.mp4": [f"de:{text}" for _, _, text, _ in captions] for v, captions in both.items()}
    (folder / "ref_captions_de.json").write_text(json.dumps(lists))
    (folder / "test_de.json").write_text(json.dumps({v: [f"de:{c[0][2]}"] for v, c in english["test"].items()}))
    splits = small("msrvtt", vtt, languages=["en", "de"], translations=str(folder))
    for videos in splits.values():
        for captions in videos.values():
            texts = {(caption_id, language): text for caption_id, language, text, _ in captions}
            assert all(texts[i, "de"] == f"de:{text}" for (i, language), text in texts.items() if language == "en")
    assert splits["test"]["video9"][1][3] == "file:test_de.json"

    # Another order is understood if the English file of the same release is next to it.
    for name in ("ref_captions_en.json", "ref_captions_de.json"):
        content = {v: [text.removeprefix("de:") for text in texts[::-1]] for v, texts in lists.items()}
        if "_de" in name:
            content = {v: [f"de:{text}" for text in texts] for v, texts in content.items()}
        (folder / name).write_text(json.dumps(content))
    assert small("msrvtt", vtt, languages=["en", "de"], translations=str(folder)) == splits


def test_translations_in_vtts_own_shape_are_aligned_by_sen_id_also_in_the_1k_a_test(vtt, tmp_path):
    file = tmp_path / "videodatainfo_es.json"
    sentences = []
    for name in ("train_val_videodatainfo.json", "test_videodatainfo.json"):
        content = json.loads((vtt / name).read_text())
        sentences += [{**s, "caption": f"es:{s['caption']}"} for s in content["sentences"]]
    file.write_text(json.dumps({"videos": [], "sentences": sentences[::-1]}))
    splits = small("msrvtt", vtt, languages=["es"], translations=str(file))
    assert splits["test"]["video11"] == [("ret1", "es", "es:caption 2 of clip 11", "file:videodatainfo_es.json")]
    assert splits["train"]["video5"][3][2] == "es:caption 3 of clip 5"


def test_missing_and_incomplete_translations_are_refused(vtt, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no human captions in de: pass translations="):
        small("msrvtt", vtt, languages=["de"])
    with pytest.raises(FileNotFoundError, match="No translations at"):
        small("msrvtt", vtt, languages=["de"], translations=str(tmp_path / "nowhere"))
    file = tmp_path / "de.jsonl"
    rows = translated(small("msrvtt", vtt, splits="test"), "de")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:1]))
    with pytest.raises(FileNotFoundError, match="No translations into ru in"):
        small("msrvtt", vtt, languages=["de", "ru"], translations=str(file))
    monkeypatch.setattr("polyvid.dataset_scripts.benchmark.check_counts", lambda *_: None)
    with pytest.raises(ValueError, match=r"expected 2 translated captions \(de\), found 1 .*video11, caption ret1"):
        read("msrvtt", vtt, languages=["de"], translations=str(file), splits="test")
    rows = [rows[0], {**rows[1], "text": " "}]  # an empty translation is as good as none
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="found 1 .*missing or empty one is de, video video11"):
        read("msrvtt", vtt, languages=["de"], translations=str(file), splits="test")
    partial = small("msrvtt", vtt, languages=["de"], translations=str(file), splits="test")["test"]
    assert [len(captions) for captions in partial.values()] == [1, 0]
    file.write_text('{"video_id": "video9"}\n')
    with pytest.raises(ValueError, match="de.jsonl, line 1: not a translated caption"):
        small("msrvtt", vtt, languages=["de"], translations=str(file))
