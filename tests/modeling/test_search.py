"""`VideoIndex` and its engines: what a search finds, with which filters, from how few bytes."""

import importlib
import json
import math
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clustered_vectors import clustered_vectors
from peak_memory import PEAK_MEMORY
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from polyvid.modeling import MMPModel, VideoIndex, index_search_mmp, video_index_mmp
from polyvid.modeling.encoding_mmp import MMPEncodingMixin
from polyvid.modeling.index_engines_mmp import ExactEngine
from polyvid.modeling.index_file_mmp import FORMAT, read_index_file
from polyvid.modeling.index_rows_mmp import Texts, VideoRows
from tiny import EMBED_DIM, VIDEO_FEATURE_DIM, tiny_model, tiny_processor

CATEGORIES = ["Sport", "Musik", "料理", "it's news"]


def metadata_of(video: int) -> dict:
    """Category, duration and date of a video; every seventh has no date."""
    known = {
        "category": CATEGORIES[video % 4],
        "duration": 5.0 + video * 37 % 300,
        "language": "de sw zh".split()[video % 3],
    }
    return known | ({"upload_date": f"20{10 + video % 9}-0{1 + video % 9}-15"} if video % 7 else {})


def recall(found: list[list[dict]], expected: list[list[str]]) -> float:
    """Of the expected videos, the share that was found."""
    hits = [
        len({hit["video_id"] for hit in hits} & set(ids)) / len(ids) for hits, ids in zip(found, expected, strict=True)
    ]
    return float(np.mean(hits))


def assert_alike(found: list[list[dict]], expected: list[list[dict]], abs: float = 1e-5) -> None:
    """The same hits in the same order. Their scores end in other digits where other kernels summed them."""
    assert [[hit | {"score": 0} for hit in hits] for hits in found] == [
        [hit | {"score": 0} for hit in hits] for hits in expected
    ]
    for ours, theirs in zip(found, expected, strict=True):
        assert [hit["score"] for hit in ours] == pytest.approx([hit["score"] for hit in theirs], abs=abs)


def nearest_ids(videos, queries, names, k=10, meets=lambda video: True) -> list[list[str]]:
    """The definition, one pair at a time: cosine of every query with every video that meets the filter."""
    kept = [i for i in range(len(videos)) if meets(i)]
    cosines = (F.normalize(queries, dim=-1).double() @ F.normalize(videos[kept], dim=-1).double().T).tolist()
    return [[names[i] for _, i in sorted(zip(row, kept, strict=True), reverse=True)[:k]] for row in cosines]


@pytest.fixture(scope="module")
def collection():
    """3,000 videos with names in several scripts, and 30 queries."""
    videos, queries = clustered_vectors(3000, 64, 30)
    names = [f"Vidéo-{i} 视频/{i % 10}" for i in range(len(videos))]
    return videos, queries, names


@pytest.fixture(scope="module")
def index(collection):
    videos, _, names = collection
    metadata = {name: metadata_of(i) for i, name in enumerate(names)}
    return VideoIndex(videos, names, metadata=metadata, storage="float32")  # no ties by rounding


@pytest.fixture(scope="module", params=["exact", "faiss", "lance"])
def searched(request, index, tmp_path_factory):
    """The same collection in each engine; LanceDB's is embedded: a folder instead of an object store."""
    if request.param != "exact":
        pytest.importorskip({"faiss": "faiss", "lance": "lancedb"}[request.param])
    options = {"lance": {"uri": tmp_path_factory.mktemp("lance")}}.get(request.param, {})
    return index.with_engine(request.param, **options)


def test_every_engine_finds_the_nearest_with_their_cosines(searched, collection):
    videos, queries, names = collection
    found = searched.search(queries, k=10)
    assert recall(found, nearest_ids(videos, queries, names)) >= 0.99
    row = {name: i for i, name in enumerate(names)}
    for query, hits in zip(queries, found, strict=True):
        scores = [hit["score"] for hit in hits]
        assert scores == sorted(scores, reverse=True)
        assert scores == pytest.approx([float(query @ videos[row[hit["video_id"]]]) for hit in hits], abs=2e-3)
    single = searched.search(queries[0], k=3)  # of one query the hits, not a list of them
    assert [hit["video_id"] for hit in single] == [hit["video_id"] for hit in found[0][:3]]


FILTERS = {
    "one value": ({"where": {"category": "料理"}}, lambda m: m["category"] == "料理"),
    "a quote in it": ({"where": {"category": "it's news"}}, lambda m: m["category"] == "it's news"),
    "one of several": ({"where": {"category": ["Sport", "Musik"]}}, lambda m: m["category"] in ("Sport", "Musik")),
    "a range": ({"where": {"duration": (20, 42)}}, lambda m: 20 <= m["duration"] <= 42),
    "an open range": ({"where": {"duration": (None, 10)}}, lambda m: m["duration"] <= 10),
    "dates": (
        {"where": {"upload_date": ("2013-02-01", "2015-12-31")}},
        lambda m: "2013-02-01" <= m.get("upload_date", "") <= "2015-12-31",
    ),
    "a language": ({"lang": "sw"}, lambda m: m["language"] == "sw"),
    "two together": (
        {"lang": "de", "where": {"duration": (100, None)}},
        lambda m: m["language"] == "de" and m["duration"] >= 100,
    ),
    "none left": ({"where": {"category": "Oper"}}, lambda m: False),
}


@pytest.mark.parametrize("name", FILTERS)
def test_filters_keep_to_what_a_loop_over_all_videos_keeps_to(name, searched, collection):
    videos, queries, names = collection
    arguments, meets = FILTERS[name]
    found = searched.search(queries[:5], k=10, **arguments)
    expected = nearest_ids(videos, queries[:5], names, meets=lambda i: meets(metadata_of(i)))
    assert [[hit["video_id"] for hit in hits] for hits in found] == expected
    row = {name: i for i, name in enumerate(names)}
    for hit in (hit for hits in found for hit in hits):
        known = {column: value for column, value in hit["metadata"].items() if value is not None}
        assert known == metadata_of(row[hit["video_id"]])


def test_a_wide_filter_finds_in_the_approximate_engine_what_is_nearest(index, collection, monkeypatch):
    """Above `EXACT_ROWS` the cells are searched with the filter, more of them the more it leaves out."""
    pytest.importorskip("faiss")
    search = importlib.import_module("polyvid.train.search.faiss_engine")
    monkeypatch.setattr(search, "EXACT_ROWS", 0)
    videos, queries, names = collection
    for codes in search.CODES:
        faiss = index.with_engine("faiss", codes=codes)
        expected = nearest_ids(videos, queries, names, meets=lambda i: metadata_of(i)["category"] == "Sport")
        assert recall(faiss.search(queries, where={"category": "Sport"}), expected) >= 0.97
        assert all(len(hits) == 10 for hits in faiss.search(queries, where={"category": "Sport"}))


@pytest.mark.parametrize(
    ("storage", "bytes_each", "error", "at_least"),
    [("float32", 4, 1e-6, 1.0), ("float16", 2, 1e-3, 0.99), ("int8", 1, 0.01, 0.93)],
)
def test_fewer_bytes_keep_the_ranking(storage, bytes_each, error, at_least, collection, tmp_path):
    videos, queries, names = collection
    index = VideoIndex(videos, names, storage=storage)
    found = index.search(queries, k=10)
    assert recall(found, nearest_ids(videos, queries, names)) >= at_least
    row = {name: i for i, name in enumerate(names)}
    exact = [
        [float(query @ videos[row[hit["video_id"]]]) for hit in hits]
        for query, hits in zip(queries, found, strict=True)
    ]
    assert torch.tensor([[hit["score"] for hit in hits] for hits in found]).sub(torch.tensor(exact)).abs().max() < error
    index.save(tmp_path / "videos.safetensors")
    vectors = 3000 * 64 * bytes_each
    assert vectors < (tmp_path / "videos.safetensors").stat().st_size < vectors + 150_000  # ids and scales


@pytest.mark.parametrize(("codes", "bytes_each"), [("float16", 2), ("int8", 1), ("binary", 1 / 8)])
def test_small_codes_are_re_ranked_by_the_stored_vectors(codes, bytes_each, collection):
    pytest.importorskip("faiss")
    videos, queries, names = collection
    index = VideoIndex(videos, names, storage="int8").with_engine("faiss", codes=codes, cells=40)
    exact = VideoIndex(videos, names, storage="int8")
    found, expected = index.search(queries), exact.search(queries)
    assert recall(found, [[hit["video_id"] for hit in hits] for hits in expected]) >= 0.97
    for ours, all_scores in zip(found[:3], exact.search(queries[:3], k=3000), strict=True):
        scores = {hit["video_id"]: hit["score"] for hit in all_scores}  # not what the codes say: what the vectors do
        assert [hit["score"] for hit in ours] == pytest.approx([scores[hit["video_id"]] for hit in ours], abs=1e-6)
    codes_bytes = len(index.engine.tensors()["faiss"]) - 3000 * 8 - 40 * 64 * 4  # less row numbers and centres
    assert codes_bytes < 3000 * (64 * bytes_each + 12) + 20_000


def test_a_saved_index_is_one_file_that_answers_alike(searched, collection, tmp_path):
    _, queries, names = collection
    searched.save(tmp_path / "videos.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["videos.safetensors"]
    assert (tmp_path / "videos.safetensors").stat().st_mode & 0o777 == 0o644  # for others to serve
    loaded = VideoIndex.load(tmp_path / "videos.safetensors")
    assert len(loaded) == 3000 and loaded.engine.name == searched.engine.name
    assert_alike(loaded.search(queries, lang="zh"), searched.search(queries, lang="zh"))
    if searched.engine.name != "lance":
        assert list(loaded.video_ids) == names


def without_faiss(monkeypatch):
    """As on a machine where it is not installed."""
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.delitem(sys.modules, "polyvid.train.search.faiss_engine", raising=False)


def test_without_its_engine_a_saved_index_is_searched_exactly(index, collection, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    _, queries, _ = collection
    index.with_engine("faiss").save(tmp_path / "videos.safetensors")
    without_faiss(monkeypatch)
    loaded = VideoIndex.load(tmp_path / "videos.safetensors")
    assert loaded.engine.name == "exact"
    assert_alike(loaded.search(queries), index.search(queries))
    with pytest.raises(ImportError, match=r"Engine 'faiss' needs pip install 'polyvid\[search\]'"):
        loaded.with_engine("faiss")


def test_a_database_takes_rows_twice_without_holding_them_twice_and_more_later(collection, tmp_path):
    """A run that was stopped is done again; other videos are added."""
    pytest.importorskip("lancedb")
    videos, queries, names = collection
    first, second = VideoIndex(videos[:2000], names[:2000]), VideoIndex(videos[1000:], names[1000:])
    assert len(first.with_engine("lance", uri=tmp_path)) == 2000
    assert len(first.with_engine("lance", uri=tmp_path)) == 2000
    both = second.with_engine("lance", uri=tmp_path)
    assert len(both) == 3000
    assert recall(both.search(queries), nearest_ids(videos, queries, names)) >= 0.99
    with pytest.raises(ValueError, match="Table 'videos' in .* has other columns or another width"):
        VideoIndex(torch.ones(1, 8), ["v"]).with_engine("lance", uri=tmp_path)
    with pytest.raises(ValueError, match="The vectors of this index are in"):
        both.with_engine("exact")


# ── built by a model ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    return {f"v{i}": rng.standard_normal((2 + i, VIDEO_FEATURE_DIM)).astype(np.float32) for i in range(8)}


def test_the_words_of_the_issue(folder, features, tmp_path):
    index = VideoIndex.build(folder, features)
    found = index.search("ein Hund spielt", k=10, lang=None)
    assert sorted(hit["video_id"] for hit in found) == sorted(features)
    model, processor = tiny_model(), tiny_processor()
    text = model.encode_texts(["ein Hund spielt"], processor)[0]
    for hit in found:
        video = model.get_video_features(torch.tensor(features[hit["video_id"]][None])).pooler_output[0]
        assert hit["score"] == pytest.approx(F.cosine_similarity(text, video, dim=0).item(), abs=1e-3)
    index.save(tmp_path / "videos.safetensors")
    later = VideoIndex.load(tmp_path / "videos.safetensors")  # knows its model by name
    again, chinese = later.search(["ein Hund spielt", "狗 跑"], k=2)
    assert [hit["video_id"] for hit in again] == [hit["video_id"] for hit in found[:2]]
    assert len(chinese) == 2


def test_moments_are_found_within_seconds(folder, features):
    index = VideoIndex.build(folder, features, moment_seconds=3)
    model = tiny_model()
    text = model.encode_texts(["a dog runs"], tiny_processor())[0]
    expected = {}
    for name, video in features.items():
        for start in range(max(1, len(video) - 2)):
            clip = torch.tensor(video[None, start : start + 3])
            expected[name, start] = F.cosine_similarity(
                text, model.get_video_features(clip).pooler_output[0], dim=0
            ).item()
    assert len(index) == len(expected)

    def order(found):
        return [(hit["video_id"], hit["start"]) for hit in found]

    assert order(index.search("a dog runs", k=99, max_overlap=1)) == sorted(expected, key=expected.get, reverse=True)
    within = {
        key: score for key, score in expected.items() if key[1] >= 2 and min(key[1] + 3, 2 + int(key[0][1:])) <= 6
    }
    assert order(index.search("a dog runs", k=99, seconds=(2, 6), max_overlap=1)) == sorted(
        within, key=within.get, reverse=True
    )
    short = next(hit for hit in index.search("a dog runs", k=99) if hit["video_id"] == "v0")
    assert (short["start"], short["end"]) == (0, 2)  # of a video shorter than a moment, all of it


def test_hits_are_different_moments(folder, features):
    """Greedily from the best on, by the definition, for one window length and for several."""
    for lengths in (3, (2, 4)):
        index = VideoIndex.build(folder, features, moment_seconds=lengths)
        every = index.search("a dog runs", k=len(index), max_overlap=1)
        assert len(every) == len(index)
        for max_overlap in (0.0, 0.4):
            expected: list[dict] = []
            for hit in every:
                seconds = set(range(hit["start"], hit["end"]))
                others = [
                    set(range(kept["start"], kept["end"])) for kept in expected if kept["video_id"] == hit["video_id"]
                ]
                if all(len(seconds & other) <= max_overlap * len(seconds | other) for other in others):
                    expected.append(hit)
            for k in (1, 4, 99):
                assert index.search("a dog runs", k=k, max_overlap=max_overlap) == expected[:k]
    assert index.search("a dog runs", k=5) == index.search("a dog runs", k=5, max_overlap=0)


def test_a_text_of_which_the_tokenizer_knows_nothing_but_the_spaces_is_refused():
    pieces = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("▁dog", -1.0)], unk_id=0))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    processor = SimpleNamespace(tokenizer=PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="<unk>"))
    index_search_mmp.check_readable(["dog", "a dog"], processor)
    with pytest.raises(ValueError, match="cannot read 'ᚠᚢ ᚦ': it does not know this script"):
        index_search_mmp.check_readable(["dog", "ᚠᚢ ᚦ"], processor)


def searched_by(engine: str, index: VideoIndex, folder) -> VideoIndex:
    if engine == "lance":
        pytest.importorskip("lancedb")
        return index.with_engine("lance", uri=folder)
    if engine == "faiss":
        pytest.importorskip("faiss")
        return index.with_engine("faiss", codes="float16")
    return index


@pytest.mark.parametrize("engine", ["exact", "lance", "faiss"])
def test_of_several_lengths_a_longer_window_is_preferred_by_a_little(folder, features, engine, tmp_path, monkeypatch):
    """0.015 for each doubling, as if the scores of all windows had been computed and sorted."""
    monkeypatch.setattr("polyvid.modeling.index_corrections_mmp.FIRST_HITS", 2)  # more must be asked for
    index = VideoIndex.build(folder, features, moment_seconds=(2, 4), storage="float32")
    cosines = index.search(["a dog runs", "狗 跑"], k=len(index), max_overlap=1, corrected=False)
    index = searched_by(engine, index, tmp_path)
    for k in (1, 3, len(index)):
        for found, of in zip(index.search(["a dog runs", "狗 跑"], k=k, max_overlap=1), cosines, strict=True):
            expected = [
                hit | {"score": hit["score"] + 0.015 * math.log2(max(2, hit["end"] - hit["start"]) / 2)} for hit in of
            ]
            assert_alike([found], [sorted(expected, key=lambda hit: -hit["score"])[:k]])
    one = VideoIndex.build(folder, features, moment_seconds=3)
    assert one.search("a dog", max_overlap=1) == one.search("a dog", max_overlap=1, corrected=False)


def test_windows_of_several_lengths_cover_every_video(folder, features):
    index = VideoIndex.build(folder, features, moment_seconds=(4, 2))
    assert index.moment_seconds == (2, 4)
    spans = {(hit["start"], hit["end"]) for hit in index.search("a dog", k=len(index), where=None, max_overlap=1)}
    assert (7, 9) in spans and (5, 9) in spans  # v7 lasts 9 seconds
    short = [hit for hit in index.search("a dog", k=len(index), max_overlap=1) if hit["video_id"] == "v0"]
    assert [(hit["start"], hit["end"]) for hit in short] == [(0, 2)]  # shorter than 4 seconds: once, not twice
    with pytest.raises(ValueError, match="must be different lengths"):
        VideoIndex.build(folder, features, moment_seconds=(4, 4))


@pytest.mark.parametrize("engine", ["exact", "lance", "faiss"])
def test_of_each_video_the_best_moment(folder, features, engine, tmp_path):
    index = VideoIndex.build(folder, features, moment_seconds=3)
    index = searched_by(engine, index, tmp_path)
    best = {}
    for hit in index.search("a dog runs", k=len(index), max_overlap=1):
        best.setdefault(hit["video_id"], hit)
    for k in (2, len(features), 99):
        assert_alike([index.search("a dog runs", k=k, one_per_video=True)], [list(best.values())[:k]])
    both = index.search(["a dog runs", "狗 跑"], k=3, one_per_video=True)
    assert [len({hit["video_id"] for hit in hits}) for hits in both] == [3, 3]


def test_a_long_video_does_not_hide_the_others(monkeypatch):
    """A thousand of its moments are nearer than any other video; the first cells faiss looks into hold nothing else."""
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(0)
    query = F.one_hot(torch.tensor(0), 16).float()
    long = query + 0.05 * torch.randn(1000, 16, generator=generator)
    others = torch.randn(3000, 16, generator=generator) - query
    spans = [[(start, start + 1) for start in range(1000)]] + [[(0, 1)]] * 3000
    exact = VideoIndex(torch.cat([long, others]), [f"v{i}" for i in range(3001)], spans=spans)
    faiss = exact.with_engine("faiss", codes="float16", cells=60, probes=1)
    asked = []
    nearest = ExactEngine.nearest
    monkeypatch.setattr(ExactEngine, "nearest", lambda *args: asked.append(args[2]) or nearest(*args))
    for index in (exact, faiss):
        asked.clear()
        found = [hit["video_id"] for hit in index.search(query, k=5, one_per_video=True)]
        assert len(set(found)) == 5 and found[0] == "v0"
        assert asked == [5, 20, 80, 320, 1280]
    few = VideoIndex(long, ["v0"], spans=spans[:1])
    asked.clear()
    assert len(few.search(query, k=10, one_per_video=True)) == 1
    assert asked == [1]


def test_above_a_million_rows_faiss_is_taken_where_it_is_installed(folder, features, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(video_index_mmp, "EXACT_UP_TO", len(features))
    assert VideoIndex.build(folder, features).engine.name == "exact"
    monkeypatch.setattr(video_index_mmp, "EXACT_UP_TO", len(features) - 1)
    assert VideoIndex.build(folder, features).engine.name == "faiss"
    without_faiss(monkeypatch)
    assert VideoIndex.build(folder, features).engine.name == "exact"


def test_moments_in_a_database_answer_as_those_in_a_file(folder, features, tmp_path):
    pytest.importorskip("lancedb")
    index = VideoIndex.build(folder, features, moment_seconds=3, metadata={"v3": {"category": "Sport"}})
    lance = index.with_engine("lance", uri=tmp_path)
    for arguments in ({}, {"seconds": (1, 5)}, {"where": {"category": "Sport"}, "seconds": (1, None)}):
        ours, theirs = (i.search("the cat sleeps", k=20, **arguments) for i in (index, lance))
        assert_alike([theirs], [ours], abs=1e-3)


@pytest.mark.parametrize("engine", ["exact", "faiss", "lance"])
@pytest.mark.parametrize("moment_seconds", [None, (2, 4)])
def test_videos_are_added_and_removed_as_if_the_index_had_been_built_so(
    folder, features, engine, moment_seconds, tmp_path
):
    if engine != "exact":
        pytest.importorskip({"faiss": "faiss", "lance": "lancedb"}[engine])
    options = {"exact": {}, "faiss": {"codes": "float16"}, "lance": {"uri": tmp_path / "table"}}[engine]
    kinds = {name: {"category": CATEGORIES[i % 4]} for i, name in enumerate(features)}
    older = {name: features[name] for name in list(features)[:6]} | {"v1": features["v7"]}  # v1 will change, too
    index = VideoIndex.build(folder, older, metadata=kinds, moment_seconds=moment_seconds, engine=engine, **options)
    index.remove(["v0", "v3"])
    index.add({name: features[name] for name in ("v1", "v3", "v6", "v7")}, metadata=kinds)
    now = {name: video for name, video in features.items() if name != "v0"}
    expected = VideoIndex.build(folder, now, metadata=kinds, moment_seconds=moment_seconds)
    assert len(index) == len(expected)
    for arguments in ({"max_overlap": 1}, {"where": {"category": "Musik"}}, {}):
        ours, theirs = (one.search("the cat sleeps", k=99, **arguments) for one in (index, expected))
        assert_alike([ours], [theirs], abs=1e-3)
    index.save(tmp_path / "videos.safetensors")
    loaded = VideoIndex.load(tmp_path / "videos.safetensors")
    assert_alike([loaded.search("a dog", k=99)], [index.search("a dog", k=99)])
    assert loaded.moment_seconds == expected.moment_seconds
    with pytest.raises(ValueError, match="Video 'v0' is not in the index"):
        loaded.remove(["v1", "v0"])
    with pytest.raises(ValueError, match="No video would be left in the index: delete it instead"):
        loaded.remove(now)
    assert len(loaded) == len(expected)


def test_faiss_learns_its_cells_anew_when_a_quarter_of_the_rows_changed(collection):
    pytest.importorskip("faiss")
    videos, queries, names = collection
    exact = VideoIndex(videos, names, storage="float32")
    index = VideoIndex(videos[:2000], names[:2000], storage="float32").with_engine("faiss", cells=20, probes=20)
    for part in range(2000, 3000, 200):
        cells = index.engine.cells
        index.add(VideoIndex(videos[part : part + 200], names[part : part + 200], storage="float32"))
        assert (index.engine.cells is cells) == (part != 2600)  # 800 of 2,800
    assert_alike(index.search(queries), exact.search(queries))
    index.remove(names[100:300])
    assert index.engine.changed == 400
    gone = set(names[100:300])
    kept = nearest_ids(videos, queries, names, meets=lambda i: names[i] not in gone)
    assert recall(index.search(queries), kept) >= 0.99
    assert not gone & {hit["video_id"] for hits in index.search(queries, k=100) for hit in hits}


def test_what_does_not_fit_is_not_added(folder, features):
    index = VideoIndex.build(folder, features)
    before = index.search("a dog", k=99)
    other = VideoIndex.build(tiny_model(seed=1), {"new": features["v1"]}, processor=tiny_processor())
    moments = VideoIndex.build(folder, {"new": features["v1"]}, moment_seconds=2)
    for part in (other, moments, VideoIndex(torch.ones(1, 5), ["new"])):
        with pytest.raises(ValueError, match="One model must have made both indexes in the same way"):
            index.add(part)
    with pytest.raises(ValueError, match="Video 'new' must be"):
        index.add({"new": features["v1"][:, :3]})
    with pytest.raises(ValueError, match="Metadata 'year' must be numbers or texts"):
        dated = VideoIndex.build(folder, features, metadata={"v1": {"year": 2019}})
        dated.add({"new": features["v1"]}, metadata={"new": {"year": "2019"}})
    assert index.search("a dog", k=99) == before


def test_an_index_finds_its_model_from_any_folder(folder, features, tmp_path, monkeypatch):
    """It names the model relative to itself, so both can move together; it says what is missing."""
    shutil.copytree(folder, tmp_path / "here" / "model")
    monkeypatch.chdir(tmp_path / "here")
    VideoIndex.build("model", features).save("indexes/videos.safetensors")
    _, about = read_index_file("indexes/videos.safetensors")
    assert about["model"] == "../model" and len(about["weights"]) == 32
    monkeypatch.chdir(tmp_path)
    assert VideoIndex.load("here/indexes/videos.safetensors").search("a dog", k=1)
    (tmp_path / "here").rename(tmp_path / "there")
    assert VideoIndex.load("there/indexes/videos.safetensors").search("a dog", k=1)
    (tmp_path / "there" / "model").rename(tmp_path / "other")
    lost = VideoIndex.load("there/indexes/videos.safetensors")
    with pytest.raises(
        FileNotFoundError, match=f"made by the model '.*there/model' .weights {about['weights']}., which"
    ):
        lost.search("a dog")
    assert VideoIndex.load("there/indexes/videos.safetensors", "other").search("a dog", k=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"lang": "de"}, "The index has no metadata 'language' to filter by; it has: category"),
        ({"where": {"category": 3}}, "Metadata 'category' holds texts, which 3 is not"),
        ({"where": {"category": ("a", "b", "c")}}, "A range of 'category' is a pair"),
        ({"seconds": (0, 5)}, "holds whole videos: to search by seconds, build it with moment_seconds"),
        ({"query": torch.ones(2, 9)}, r"made by another model: its embeddings are \(1, 8\), the queries' \(2, 9\)"),
        ({"query": "a dog"}, "To search with texts, this index needs its model"),
    ],
)
def test_what_an_index_cannot_answer_it_says(arguments, message):
    index = VideoIndex(torch.ones(1, 8), ["v"], metadata={"v": {"category": "Sport"}})
    with pytest.raises(ValueError, match=message):
        index.search(**({"query": torch.ones(8)} | arguments))


def test_bad_collections_are_refused(folder, features, monkeypatch):
    for arguments, message in [
        ({"storage": "int4"}, "Unknown storage 'int4': choose from float32 float16 int8"),
        ({"metadata": {"a": {"score": 1}}}, "Metadata cannot be called 'score'"),
        ({"metadata": {"a": {"tags": ["x"]}}}, "Metadata 'tags' must be numbers or texts"),
        (
            {"metadata": {"a": {"year": 1}, "b": {"year": "1"}}},
            "Metadata 'year' must be numbers or texts, and the same",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            VideoIndex(torch.ones(2, 8), ["a", "b"], **arguments)
    with pytest.raises(ValueError, match="Row 1 of the embeddings holds NaN"):
        VideoIndex(torch.tensor([[1.0], [torch.nan]]), ["a", "b"])
    with pytest.raises(ValueError, match="Unknown codes 'int2': choose from float16 int8 binary"):
        VideoIndex(torch.ones(1, 8), ["a"]).with_engine("faiss", codes="int2")
    monkeypatch.setattr(MMPEncodingMixin, "encode_videos", None)  # what can be known before the work is said before it
    for arguments, message in [
        ({"moment_seconds": 0}, "moment_seconds must be at least 1, got 0"),
        ({"engine": "hnsw"}, "Unknown engine 'hnsw': choose from auto exact faiss lance"),
        ({"engine": "faiss", "nlist": 3}, "Engine 'faiss': got an unexpected keyword argument 'nlist'"),
        ({"storage": "int4"}, "Unknown storage 'int4'"),
        ({"engine": "lance"}, "Engine 'lance': missing a required argument: 'uri'"),
    ]:
        with pytest.raises(ValueError, match=message):
            VideoIndex.build(folder, features, **arguments)
    with pytest.raises(ValueError, match="Pass the processor too"):
        VideoIndex.build(tiny_model(), features)


def test_an_index_knows_its_model_again(folder, features, tmp_path):
    """Models of one width embed differently: of another one, answers would look right and mean nothing."""
    path = tmp_path / "videos.safetensors"
    VideoIndex.build(folder, features).save(path)
    other = VideoIndex.load(path, tiny_model(seed=1), tiny_processor())
    with pytest.raises(ValueError, match="made by another model, .*: this one reads texts differently"):
        other.search("a dog")
    with pytest.raises(
        ValueError, match=f"made by another model: its embeddings are .8, {EMBED_DIM}., the model's are 32"
    ):
        VideoIndex.load(path, tiny_model(embed_dim=32))
    same = VideoIndex.load(path, tiny_model().half(), tiny_processor())
    assert same.search("a dog")[0]["video_id"] == VideoIndex.load(path).search("a dog")[0]["video_id"]


def test_broken_files_are_one_clear_line(index, tmp_path):
    index.save(tmp_path / "videos.safetensors")
    whole = (tmp_path / "videos.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    tiny_model().save_pretrained(tmp_path / "model")
    for name in ("cut.safetensors", "nowhere.safetensors", "model/model.safetensors"):
        with pytest.raises(ValueError, match=f"{name}' is not a video index that can be read"):
            VideoIndex.load(tmp_path / name)


def test_a_failed_save_leaves_the_old_file(index, tmp_path, monkeypatch):
    index.save(tmp_path / "videos.safetensors")
    whole = (tmp_path / "videos.safetensors").read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("polyvid.modeling.index_file_mmp.save_file", full)
    with pytest.raises(OSError, match="Could not write .*No space left on device.*free some space"):
        index.save(tmp_path / "videos.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["videos.safetensors"]
    assert (tmp_path / "videos.safetensors").read_bytes() == whole


def test_a_changed_byte_is_found_and_named(index, tmp_path):
    path = tmp_path / "videos.safetensors"
    index.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="videos.safetensors' is not a video index .* does not match its checksum"):
        VideoIndex.load(path)
    assert len(VideoIndex.load(path, verify=False)) == len(index)


def test_the_same_index_is_the_same_bytes(index, tmp_path):
    for name in ("a", "b"):
        index.save(tmp_path / name)
    VideoIndex.load(tmp_path / "a").save(tmp_path / "c")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_an_index_of_an_older_version_loads_with_a_warning(index, collection, tmp_path, caplog, monkeypatch):
    """Its metadata has no checksums."""
    about = {"engine": "exact", "options": {}, "model": ""}
    path = tmp_path / "old.safetensors"
    save_file(index.engine.tensors(), path, {FORMAT: json.dumps(about)})
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    loaded = VideoIndex.load(path)
    assert "old.safetensors' was written by an older version and has no checksums" in caplog.text
    assert_alike(loaded.search(collection[1]), index.search(collection[1]))
    caplog.clear()
    loaded.save(path)
    VideoIndex.load(path)
    assert not caplog.text


def test_ids_are_a_sequence_and_an_index_says_what_it_is(index, collection):
    names = collection[2]
    assert (index.video_ids[0], index.video_ids[-1]) == (names[0], names[-1])
    assert index.video_ids[-3:] == names[-3:] and index.video_ids[10:0:-4] == names[10:0:-4]
    assert names[7] in index.video_ids and index.video_ids.index(names[7]) == 7
    for outside in (3000, -3001):
        with pytest.raises(IndexError, match=f"There is no text {outside}: there are 3000"):
            index.video_ids[outside]
    assert repr(index) == "VideoIndex(3,000 videos x 64, exact float32)"
    moments = VideoIndex(torch.ones(2, 8), ["v"], spans=[[(0, 1), (1, 2)]], storage="int8")
    assert repr(moments) == "VideoIndex(2 moments x 8, exact int8)"


def test_only_indexes_of_one_kind_are_joined():
    part = VideoIndex(torch.eye(4), ["a", "b", "c", "d"])
    joined = VideoIndex.cat([part, VideoIndex(torch.eye(4)[:1], ["e"])])
    assert list(joined.video_ids) == ["a", "b", "c", "d", "e"]
    with pytest.raises(ValueError, match="There is no index to join"):
        VideoIndex.cat([])
    with pytest.raises(ValueError, match="Video id 'a' appears twice in the collection"):
        VideoIndex.cat([part, VideoIndex(torch.eye(4)[:1], ["a"])])
    for other in (
        VideoIndex(torch.eye(5)[:1], ["e"]),
        VideoIndex(torch.eye(4)[:1], ["e"], storage="int8"),
        VideoIndex(torch.eye(4)[:1], ["e"], spans=[[(0, 1)]]),
    ):
        with pytest.raises(ValueError, match="Indexes can be joined if one model made them in the same way"):
            VideoIndex.cat([part, other])


def test_names_that_are_not_unicode_are_one_line():
    """File names that are not UTF-8 come out of the system with such characters."""
    with pytest.raises(ValueError, match=r"'v\\udcff' is not valid Unicode: see its character 1"):
        VideoIndex(torch.ones(1, 8), ["v\udcff"])


def test_a_misspelt_path_is_not_looked_for_on_the_hub(tmp_path, monkeypatch, features):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    for name in ("./nowhere", "outputs/mpp", "outputs/demo/mpp", str(tmp_path / "nowhere"), tmp_path / "nowhere"):
        for load in (MMPModel.from_pretrained, lambda name: VideoIndex.build(name, features), MMPModel.from_backbone):
            with pytest.raises(
                FileNotFoundError, match=f"There is no (model|text backbone) at '{name}'.*check the path"
            ):
                load(name)
    with pytest.raises(ValueError, match="'outputs/videos' is not a video index that can be read"):
        VideoIndex.load("outputs/videos")


@pytest.mark.slow
def test_a_large_index_is_searched_in_a_fraction_of_its_size_as_floats(tmp_path):
    """75,000 vectors of 1024: 154 MB as float16 in the file, 307 MB as float32, of which no copy may be made."""
    path = tmp_path / "videos.safetensors"
    index = VideoIndex(torch.ones(1, 1024), ["v"])
    index.engine.vectors.data = torch.rand(1024).half().expand(75_000, 1024).contiguous()
    index.engine.rows = VideoRows(Texts.of(map(str, range(75_000))), {})
    index.save(path)
    child = f"""
import json, sys, torch
from polyvid.modeling import VideoIndex
anonymous = lambda: int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1]) * 1024
before, peak = anonymous(), {PEAK_MEMORY}
index = VideoIndex.load(sys.argv[1])
opened = {PEAK_MEMORY} - peak
index.search(torch.ones(3, 1024), k=5)
print(json.dumps({{"opened": opened, "anonymous": anonymous() - before, "peak": {PEAK_MEMORY} - peak}}))
"""
    result = subprocess.run([sys.executable, "-c", child, str(path)], check=True, capture_output=True, text=True)
    used = json.loads(result.stdout)
    assert used["opened"] < 30e6  # mapped, not read
    assert used["anonymous"] < 40e6  # a block of 4 MB at a time
    assert used["peak"] < 154e6 + 70e6  # with the pages of the file, which the system may keep or drop
