"""Queries are read without transformers where that is known to give what the model gives, and only there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from polyvid.modeling import VideoIndex
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.search.text_tower import compare_tower, known_tower
from tiny import EMBED_DIM, VIDEO_FEATURE_DIM, tiny_model, tiny_processor

QUERIES = ["der hund läuft", "the cat sleeps in a park", "狗 跑", "a <pad> dog", "<mask> katze"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "polyvid" / "text_towers"


def save(folder: Path, **model) -> Path:
    tiny_model(**model).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def index_of(folder: Path, path: Path) -> Path:
    features = {f"v{number}": torch.randn(3, VIDEO_FEATURE_DIM) for number in range(5)}
    VideoIndex.build(str(folder), features).save(path)
    return path


@pytest.mark.parametrize(
    "model",
    [
        {"backbone": "bert"},
        {"backbone": "xlm-roberta"},
        {"backbone": "bert", "embed_dim": 32, "pooler_num_layers": 1, "share_poolers": True},
    ],
    ids=["bert", "xlm-roberta", "without a projection"],
)
def test_it_embeds_texts_as_the_model_does(model, tmp_path):
    folder = save(tmp_path / "model", **model)
    index = VideoIndex.load(index_of(folder, tmp_path / "i.safetensors"))
    assert known_tower(index) is None, "nothing is trusted that was not compared"
    compare_tower(index)
    tower = known_tower(index)
    expected = index.towers()[0].encode_texts(QUERIES, index.towers()[1])
    torch.testing.assert_close(tower.encode_texts(QUERIES), expected, atol=1e-5, rtol=1e-5)
    opened = VideoIndex.load(tmp_path / "i.safetensors")
    opened.read_queries_with(tower, tower)
    for ours, theirs in zip(opened.search(QUERIES), index.search(QUERIES), strict=True):
        assert [hit["video_id"] for hit in ours] == [hit["video_id"] for hit in theirs]
        assert [hit["score"] for hit in ours] == pytest.approx([hit["score"] for hit in theirs], abs=1e-5)
    with pytest.raises(PolyvidError, match=r"The model cannot read '\u16a0\u16a2\u16a6'"):
        opened.search("\u16a0\u16a2\u16a6")


@pytest.mark.parametrize("backbone", ["modernbert", "deberta-v2"])
def test_other_architectures_are_left_to_transformers(backbone, tmp_path, cache):
    index = VideoIndex.load(index_of(save(tmp_path / "model", backbone=backbone), tmp_path / "i.safetensors"))
    compare_tower(index)
    assert known_tower(index) is None
    assert [file.read_text() for file in cache.iterdir()] == ['{"as_the_model": false}']


def test_a_model_that_differs_in_anything_else_is_left_to_transformers(tmp_path, monkeypatch):
    """Here its poolers have other numbers of heads than its configuration on disk says."""
    folder = save(tmp_path / "model")
    index = VideoIndex.load(index_of(folder, tmp_path / "i.safetensors"))
    index.towers()
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"pooler_num_heads": 4', '"pooler_num_heads": 2'))
    compare_tower(index)
    assert known_tower(index) is None


def test_what_was_compared_holds_for_these_files_only(tmp_path):
    folder = save(tmp_path / "model")
    index = VideoIndex.load(index_of(folder, tmp_path / "i.safetensors"))
    compare_tower(index)
    assert known_tower(index) is not None
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        before = (folder / name).stat()
        os.utime(folder / name, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        assert known_tower(index) is None, name
        os.utime(folder / name, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert known_tower(index) is not None


def test_a_model_of_the_same_name_is_refused_as_ever(tmp_path):
    save(tmp_path / "model", seed=0)
    path = index_of(tmp_path / "model", tmp_path / "i.safetensors")
    save(tmp_path / "model", seed=1)
    other = VideoIndex.load(index_of(tmp_path / "model", tmp_path / "other.safetensors"))
    compare_tower(other)
    tower = known_tower(other)
    with pytest.raises(PolyvidError, match="The index was made by another model"):
        VideoIndex.load(path).read_queries_with(tower, tower)


def test_an_index_without_a_model_has_none(tmp_path):
    index = VideoIndex(torch.randn(2, EMBED_DIM), ["a", "b"])
    assert known_tower(index) is None
    compare_tower(index)


def test_the_second_search_does_not_import_transformers(tmp_path):
    path = index_of(save(tmp_path / "model"), tmp_path / "i.safetensors")
    program = (
        "import sys\nfrom polyvid.train import cli\n"
        "try:\n    cli.main(['search', sys.argv[1], 'der hund'])\n"
        "finally:\n    print(sorted({'accelerate', 'av', 'datasets', 'transformers'} & sys.modules.keys()))"
    )
    shown = [
        subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    (*first, imported), (*second, imported_again) = (text.splitlines() for text in shown)
    assert first == second
    assert "transformers" in imported
    assert imported_again == "[]"
