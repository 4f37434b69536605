"""Engines are found by their entry points, by the package and by code beside a model alike."""

import json
import os
import subprocess
import sys

import pytest
import torch

from polyvid.modeling import VideoIndex
from polyvid.modeling.index_engines_mmp import engine_class
from tiny import VIDEO_FEATURE_DIM, tiny_model, tiny_processor

BACKWARDS = '''
from polyvid.modeling.index_engines_mmp import ExactEngine


class Backwards(ExactEngine):
    """Finds the farthest."""

    name = "backwards"

    def _nearest_rows(self, queries, k, allowed):
        return super()._nearest_rows(-queries, k, allowed)
'''


def declare(folder, package: str, engines: dict[str, str]) -> None:
    """What an installed package leaves: metadata that name its entry points."""
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {target}" for name, target in engines.items()]
    (about / "entry_points.txt").write_text("\n".join(["[polyvid.index_engines]", *lines]))


@pytest.fixture
def backwards(tmp_path, monkeypatch):
    """Another package, with an engine and one whose library is missing."""
    declare(tmp_path, "backwards", {"backwards": "backwards_engine:Backwards", "broken": "no_such_module:Engine"})
    (tmp_path / "backwards_engine.py").write_text(BACKWARDS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("backwards_engine", None)


def test_any_package_brings_an_engine(backwards, tmp_path):
    index = VideoIndex(torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]), ["same", "near", "opposite"])
    query = torch.tensor([1.0, 0.0])
    assert index.search(query, k=1)[0]["video_id"] == "same"
    index.with_engine("backwards").save(tmp_path / "videos.safetensors")
    loaded = VideoIndex.load(tmp_path / "videos.safetensors")
    assert loaded.engine.name == "backwards" and loaded.search(query, k=1)[0]["video_id"] == "opposite"


def test_what_is_not_installed_is_named(backwards, tmp_path, monkeypatch):
    index = VideoIndex(torch.eye(2), ["a", "b"])
    index.with_engine("backwards").save(tmp_path / "videos.safetensors")
    with pytest.raises(ImportError, match=r"Engine 'broken' needs .*No module named 'no_such_module'"):
        index.with_engine("broken")
    with pytest.raises(ValueError, match="Unknown engine 'hnsw': choose from auto exact .*backwards"):
        index.with_engine("hnsw")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    assert VideoIndex.load(tmp_path / "videos.safetensors").engine.name == "exact"  # it holds the vectors as well


def test_without_the_package_faiss_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("polyvid.modeling.index_engines_mmp.entry_points", lambda group: _Nothing())
    with pytest.raises(ImportError, match=r"Engine 'faiss' needs pip install 'polyvid\[search\]'"):
        engine_class("faiss")


class _Nothing:
    names = frozenset()


BESIDE = """
import json, sys
import torch
from transformers import pipeline

folder, path = sys.argv[1:]
search = pipeline("text-to-video-retrieval", model=folder, trust_remote_code=True)
index_class = sys.modules[type(search).__module__].VideoIndex
assert index_class.__module__.startswith("transformers_modules.")
opened = index_class.load(path, search.model, search.processor)
engines = {"loaded": type(opened.engine).__module__}
hits = {"loaded": opened.search("der hund", k=3)}
for name in ("exact", "faiss"):  # its own vectors are taken
    again = opened.with_engine(name)
    hits[name] = again.search("der hund", k=3)
opened.save(path + ".again")
hits["saved"] = index_class.load(path + ".again", search.model, search.processor).search("der hund", k=3)
joined = index_class.cat([opened])
hits["joined"] = joined.search("der hund", k=3)
print(json.dumps([engines, hits, list(opened.video_ids)[-1]]))
"""


@pytest.mark.slow
def test_a_faiss_index_is_searched_by_remote_code_next_to_the_installed_package(tmp_path):
    """The classes of vectors and rows are there twice; the engine of the package has those of the package."""
    pytest.importorskip("faiss")
    model, processor = tiny_model(), tiny_processor()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    generator = torch.Generator().manual_seed(0)
    features = {f"v{i}": torch.randn(3, VIDEO_FEATURE_DIM, generator=generator) for i in range(9)}
    index = VideoIndex.build(model, features, processor=processor, engine="faiss")
    index.save(tmp_path / "videos.safetensors")
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", BESIDE, str(tmp_path / "model"), str(tmp_path / "videos.safetensors")]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    engines, hits, last = json.loads(result.stdout.splitlines()[-1])
    assert engines["loaded"] == "polyvid.train.search.faiss_engine" and last == "v8"
    expected = index.search("der hund", k=3)
    for name, found in hits.items():
        assert [hit["video_id"] for hit in found] == [hit["video_id"] for hit in expected], name
        assert [hit["score"] for hit in found] == pytest.approx([hit["score"] for hit in expected], abs=1e-5), name
