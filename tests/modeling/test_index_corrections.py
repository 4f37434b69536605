"""An index that corrects its scores: the same as correcting all of them, on disk and after videos were removed."""

import pytest
import torch
from torch.nn import functional as F

from polyvid.modeling import VideoIndex
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.hubness_mmp import HubNumbers
from polyvid.modeling.index_card_mmp import index_card
from polyvid.modeling.index_file_mmp import read_index_file, write_index_file
from tiny import VIDEO_FEATURE_DIM, tiny_model, tiny_processor

NAMES = [f"v{n:03d}" for n in range(300)]


def random(rows, seed, dim=8):
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)) + 0.3, dim=-1)


VIDEOS, BANK, QUERIES = random(300, 0), random(40, 1), random(50, 2)


def corrected_index(gated=True, storage="float32"):
    index = VideoIndex(VIDEOS, NAMES, storage=storage)
    index.correct_hubness(BANK, gated=gated, about="40 texts by hand")
    return index


def expected_hits(gated, k, kept=range(300)):
    kept = list(kept)
    similarity = QUERIES @ VIDEOS[kept].T
    of_all = HubNumbers.of(VIDEOS, BANK, gated=gated)
    numbers = HubNumbers(of_all.numbers[kept], of_all.nearest[kept], of_all.beta, gated)
    scores, rows = numbers(similarity).topk(k)
    return [
        [(NAMES[kept[r]], s) for r, s in zip(*pair, strict=True)]
        for pair in zip(rows.tolist(), scores.tolist(), strict=True)
    ]


def assert_hits(found, expected):
    assert [[hit["video_id"] for hit in hits] for hits in found] == [[name for name, _ in hits] for hits in expected]
    for hits, others in zip(found, expected, strict=True):
        assert [hit["score"] for hit in hits] == pytest.approx([score for _, score in others], abs=1e-5)


@pytest.mark.parametrize("first_hits", [64, 3])
@pytest.mark.parametrize("gated", [True, False])
def test_a_search_finds_what_correcting_every_score_finds(gated, first_hits, monkeypatch):
    monkeypatch.setattr("polyvid.modeling.index_corrections_mmp.FIRST_HITS", first_hits)
    index = corrected_index(gated)
    assert_hits(index.search(QUERIES, k=7), expected_hits(gated, 7))
    assert_hits(index.search(QUERIES, k=300), expected_hits(gated, 300))
    plain = VideoIndex(VIDEOS, NAMES, storage="float32").search(QUERIES, k=7)
    assert index.search(QUERIES, k=7, corrected=False) == plain
    assert index.search(QUERIES, k=7) != plain


def test_a_filter_is_corrected_alike():
    metadata = {name: {"category": "sport" if n % 3 else "music"} for n, name in enumerate(NAMES)}
    index = VideoIndex(VIDEOS, NAMES, metadata=metadata, storage="float32")
    index.correct_hubness(BANK)
    found = index.search(QUERIES, k=5, where={"category": "music"})
    assert_hits(found, expected_hits(True, 5, range(0, 300, 3)))


def test_it_is_saved_with_the_index_and_the_card_says_so(tmp_path):
    index = corrected_index()
    index.save(tmp_path / "videos.safetensors")
    loaded = VideoIndex.load(tmp_path / "videos.safetensors")
    assert_hits(loaded.search(QUERIES, k=7), expected_hits(True, 7))
    assert "scores corrected for hubs" in repr(loaded)
    assert "corrected for hubs (QB-Norm, gated, β = 20), by 40 texts by hand" in index_card(loaded, "me/videos")
    tensors, _ = read_index_file(tmp_path / "videos.safetensors")
    assert tensors["hubness"].shape == (300,)  # one number a video
    VideoIndex(VIDEOS, NAMES).save(tmp_path / "plain.safetensors")
    assert "corrections" not in read_index_file(tmp_path / "plain.safetensors")[1]  # read by older versions as before


def test_removed_videos_leave_and_new_ones_are_refused():
    index = corrected_index()
    index.remove(NAMES[1::2])
    assert_hits(index.search(QUERIES, k=7), expected_hits(True, 7, range(0, 300, 2)))
    with pytest.raises(PolyvidError, match="new ones would have no such number: build it again"):
        index.add(VideoIndex(random(2, 9), ["new", "newer"], storage="float32"))


def test_moments_get_the_number_of_their_video():
    spans = [[(0, 2), (2, 4), (4, 6)] for _ in range(100)]
    index = VideoIndex(VIDEOS, NAMES[:100], spans=spans, storage="float32")
    index.correct_hubness(BANK, gated=False)
    best = (BANK @ VIDEOS.T).unflatten(1, (100, 3)).amax(2)  # (texts, videos)
    numbers = (20 * best).exp().mean(0).log() / 20
    scores = (QUERIES @ VIDEOS.T).unflatten(1, (100, 3)) - numbers[:, None]
    found = index.search(QUERIES, k=4, one_per_video=True)
    values, videos = scores.amax(2).topk(4)
    assert [[hit["video_id"] for hit in hits] for hits in found] == [[NAMES[v] for v in row] for row in videos.tolist()]
    assert [[hit["score"] for hit in hits] for hits in found] == [
        pytest.approx(row, abs=1e-5) for row in values.tolist()
    ]
    assert all(hit["start"] % 2 == 0 for hits in found for hit in hits)


def test_languages_are_moved_to_english_and_a_bank_with_them(tmp_path):
    model, processor = tiny_model(), tiny_processor()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    features = {
        f"v{n}": torch.randn(3, VIDEO_FEATURE_DIM, generator=torch.Generator().manual_seed(n)) for n in range(9)
    }
    index = VideoIndex.build(tmp_path / "model", features, storage="float32")
    texts = {"en": ["a dog", "the cat runs"], "de": ["ein hund", "katze läuft"]}
    index.correct_languages(texts)
    index.save(tmp_path / "videos.safetensors")
    index = VideoIndex.load(tmp_path / "videos.safetensors")
    unit = {language: F.normalize(model.encode_texts(of, processor), dim=-1) for language, of in texts.items()}
    offset = unit["de"].mean(0) - unit["en"].mean(0)
    videos = F.normalize(model.encode_videos(list(features.values()), processor), dim=-1)
    moved = F.normalize(F.normalize(model.encode_texts(["der hund"], processor), dim=-1) - offset, dim=-1)
    scores, rows = (moved @ videos.T).topk(9)
    found = index.search("der hund", k=9, query_language="de")
    assert [hit["video_id"] for hit in found] == [f"v{row}" for row in rows[0].tolist()]
    assert [hit["score"] for hit in found] == pytest.approx(scores[0].tolist(), abs=1e-5)
    with pytest.raises(PolyvidError, match="no offset of 'sw'; it has those of de en"):
        index.search("der hund", query_language="sw")

    index.correct_hubness(texts, gated=False)
    bank = torch.cat([unit["en"], F.normalize(unit["de"] - offset, dim=-1)])
    expected = HubNumbers.of(videos, bank, gated=False)
    torch.testing.assert_close(index.corrections.hubs.numbers, expected.numbers, rtol=0, atol=1e-5)
    with pytest.raises(PolyvidError, match="Correct languages before hubness"):
        index.correct_languages(texts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, facts: tensors.pop("hubness"), "'hubness' is missing"),
        (lambda tensors, facts: tensors.update(hubness=tensors["hubness"][:-1].clone()), r"'hubness' is .*\(299,\)"),
        (lambda tensors, facts: tensors.update(hubness=torch.full((300,), torch.nan)), "'hubness' holds NaN"),
        (lambda tensors, facts: facts["corrections"].update(beta=0), "description of its corrections is damaged"),
        (lambda tensors, facts: facts["corrections"].update(gated="yes"), "description of its corrections is damaged"),
        (lambda tensors, facts: facts["corrections"].update(languages=["de"]), "'offsets' is missing"),
        (lambda tensors, facts: facts.update(corrections=["x"]), "description of itself is damaged"),
    ],
)
def test_a_file_whose_corrections_do_not_fit_is_refused(tmp_path, change, message):
    corrected_index().save(tmp_path / "videos.safetensors")
    tensors, facts = read_index_file(tmp_path / "videos.safetensors")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors, facts)
    write_index_file(tmp_path / "changed.safetensors", tensors, facts)
    with pytest.raises(PolyvidError, match=message):
        VideoIndex.load(tmp_path / "changed.safetensors")


def test_banks_that_cannot_be_used_are_refused():
    index = VideoIndex(VIDEOS, NAMES)
    for bank, beta in (([], 20.0), (BANK, 0.0)):
        with pytest.raises(PolyvidError, match="at least one text, and beta must be greater than 0"):
            index.correct_hubness(bank, beta)
    with pytest.raises(PolyvidError, match=r"embeddings \(40, 7\)"):
        index.correct_hubness(BANK[:, :7])
    with pytest.raises(PolyvidError, match="Offsets need texts in en and in another language; got de"):
        index.correct_languages({"de": ["hund"]})
