"""The `text-to-video-retrieval` pipeline and its index."""

import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import pipeline

from polyvid.modeling import VideoIndex
from tiny import VIDEO_FEATURE_DIM, tiny_model, tiny_processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def search(folder):
    return pipeline("text-to-video-retrieval", model=str(folder), trust_remote_code=True)


@pytest.fixture(scope="module")
def videos():
    rng = np.random.default_rng(0)
    return {f"v{i}": rng.standard_normal((i + 1, VIDEO_FEATURE_DIM)).astype(np.float32) for i in range(7)}


def cosines(query, videos):
    """Of one query with each video, one pair at a time."""
    model, processor = tiny_model(), tiny_processor()
    text = model.get_text_features(**processor(text=query, return_tensors="pt")).pooler_output
    return {
        name: F.cosine_similarity(text, model.get_video_features(torch.tensor(video[None])).pooler_output).item()
        for name, video in videos.items()
    }


def test_the_nearest_videos_come_first_with_their_cosine(search, videos):
    expected = cosines("der hund läuft", videos)
    found = search("der hund läuft", videos=videos, top_k=3)
    assert [hit["video_id"] for hit in found] == sorted(expected, key=expected.get, reverse=True)[:3]
    for hit in found:
        assert hit["score"] == pytest.approx(expected[hit["video_id"]], abs=1e-3)  # kept as float16


def test_a_list_of_queries_gives_a_list_of_answers(search, videos):
    queries = ["a dog", "狗 跑", "the woman sleeps in the park"]
    index = search.make_index(videos)
    one_by_one = [search(query, index=index, top_k=2) for query in queries]
    for batch_size in (1, 2):
        answers = search(queries, index=index, top_k=2, batch_size=batch_size)
        assert [[hit["video_id"] for hit in answer] for answer in answers] == [
            [hit["video_id"] for hit in answer] for answer in one_by_one
        ]


def test_an_index_is_saved_once_and_searched_ever_after(search, folder, videos, tmp_path):
    path = tmp_path / "videos.safetensors"
    search.make_index(videos).save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["videos.safetensors"]
    later = pipeline("text-to-video-retrieval", model=str(folder), trust_remote_code=True, index=path)
    found, expected = later("a dog"), search("a dog", videos=videos)
    assert [hit["video_id"] for hit in found] == [hit["video_id"] for hit in expected]
    assert [hit["score"] for hit in found] == pytest.approx([hit["score"] for hit in expected], abs=1e-6)
    assert len(found) == 7  # of a collection smaller than top_k, all
    index = VideoIndex.load(path)
    assert list(index.video_ids) == list(videos) and len(index) == 7
    assert search("a dog", index=index, top_k=1) == later("a dog", top_k=1)


def test_filters_and_moments_are_those_of_the_index(search, videos):
    index = search.make_index(videos, moment_seconds=2, metadata={"v3": {"category": "sport"}})
    found = search("a dog", index=index, where={"category": "sport"}, seconds=(1, None), max_overlap=1)
    assert {(hit["video_id"], hit["start"], hit["end"]) for hit in found} == {("v3", 1, 3), ("v3", 2, 4)}


def test_a_collection_is_embedded_once_and_again_if_it_changes(folder, videos, monkeypatch):
    pipe = pipeline("text-to-video-retrieval", model=str(folder), trust_remote_code=True, videos=videos)
    embedded = []
    encode = type(pipe.model).encode_videos
    monkeypatch.setattr(
        type(pipe.model), "encode_videos", lambda *args, **more: embedded.append(len(args[1])) or encode(*args, **more)
    )
    changed = {name: video.copy() for name, video in videos.items()}
    first = pipe("a dog")  # embedded when the pipeline was made
    assert pipe("a dog", videos=changed) == first and embedded == []  # the same videos in other arrays
    changed["v3"] *= -1
    assert pipe("a dog", videos=changed) != first and embedded == [7]
    assert pipe("a cat", videos=changed, top_k=1) and embedded == [7]


def test_only_the_best_moment_of_each_video(search, videos):
    index = search.make_index(videos, moment_seconds=2)
    found = search("a dog", index=index, one_per_video=True)
    assert sorted(hit["video_id"] for hit in found) == sorted(videos)
    assert found[0] == search("a dog", index=index, top_k=1)[0]


def test_an_index_file_is_loaded_once_and_its_model_is_checked_once(search, videos, folder, tmp_path, monkeypatch):
    path = tmp_path / "videos.safetensors"
    search.make_index(videos).save(path)
    loads, texts = [], []
    pipe = pipeline("text-to-video-retrieval", model=str(folder), trust_remote_code=True)
    index_class = sys.modules[type(pipe).__module__].VideoIndex  # of the code next to the model
    load, encode = index_class.load, type(pipe.model).encode_texts
    monkeypatch.setattr(index_class, "load", lambda path: loads.append(path) or load(path))
    monkeypatch.setattr(type(pipe.model), "encode_texts", lambda *args: texts.append(args[1]) or encode(*args))
    first = pipe("a dog", index=path)
    assert pipe("a dog", index=str(path)) == first and pipe(["a dog"], index=path) == [first]
    assert len(loads) == len(texts) == 1  # the probe
    search.make_index({"other": videos["v3"]}).save(path)
    assert [hit["video_id"] for hit in pipe("a dog", index=path)] == ["other"]  # not what was there before
    assert len(loads) == 2


def test_an_index_of_another_model_is_refused_though_it_has_the_same_width(search, videos):
    index = VideoIndex.build(tiny_model(seed=1), videos, processor=tiny_processor())
    with pytest.raises(ValueError, match="The index was made by another model"):
        search("a dog", index=index)


def test_videos_without_names_are_called_by_their_position(search, videos):
    named, unnamed = search("a cat", videos=videos), search("a cat", videos=list(videos.values()))
    assert [hit["video_id"] for hit in named] == [f"v{hit['video_id']}" for hit in unnamed]


def test_the_pipeline_saves_a_folder_that_loads(search, videos, tmp_path):
    search.save_pretrained(tmp_path)
    again = pipeline("text-to-video-retrieval", model=str(tmp_path), trust_remote_code=True)
    assert again("a dog", videos=videos) == search("a dog", videos=videos)


@pytest.mark.parametrize(
    ("query", "arguments", "message"),
    [
        ("a dog", {}, "Nothing to search in: pass videos=.* or index="),
        ("", {"videos": {"v": np.ones((1, 10))}}, "must be a non-empty string"),
        ("a dog", {"videos": {}}, "The collection of videos is empty"),
        ("a dog", {"videos": {"x7": np.ones((0, 10))}}, "Video 'x7' must be an array of at least 1 second"),
        ("a dog", {"videos": {"x7": np.ones((1, 10))}, "top_k": 0}, "k must be at least 1, got 0"),
        ("a dog", {"index": "nowhere.safetensors"}, "'nowhere.safetensors' is not a video index that can be read"),
        (
            "a dog",
            {"topk": 3},
            "Unknown argument topk; the arguments are videos, index, top_k, lang, where, seconds, one",
        ),
        ("a \ud800 dog", {"videos": {"v": np.ones((1, 10))}}, "Text 0 is not valid Unicode"),
        ("a dog", {"index": VideoIndex(torch.ones(1, 8), ["v"])}, r"made by another model: .* \(1, 8\).* \(1, 16\)"),
    ],
)
def test_bad_questions_get_clear_answers(search, query, arguments, message):
    with pytest.raises(ValueError, match=message):
        search(query, **arguments)


def test_an_index_refuses_what_cannot_be_told_apart(tmp_path):
    with pytest.raises(ValueError, match="Video id 'a' appears twice"):
        VideoIndex(torch.ones(3, 4), ["a", "b", "a"])
    with pytest.raises(ValueError, match=r"2 video ids do not fit embeddings \(3, 4\)"):
        VideoIndex(torch.ones(3, 4), ["a", "b"])
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a tensor")
    with pytest.raises(ValueError, match="is not a video index that can be read"):
        VideoIndex.load(broken)
