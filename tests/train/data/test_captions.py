"""Pairs and visually pivoted triples (§3.3), against a naive enumeration of what may be drawn."""

import itertools
from collections import Counter

import numpy as np
import pytest
from torch.utils.data import DataLoader

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.data.captions import PivotSampler


def video(video_id, **languages):
    """`en="a b"`: the captions of ids a and b; the text of a caption is "en a of <video>"."""
    captions = [
        {"caption_id": i, "language": language, "text": f"{language} {i} of {video_id}", "source": "human"}
        for language, ids in languages.items()
        for i in ids.split()
    ]
    return {"video_id": video_id, "captions": captions}


def features(videos):
    return {v["video_id"]: np.full((2, 4), k, np.float16) for k, v in enumerate(videos)}


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return [sampler[index] for index in range(len(sampler))]


def id_of(text):
    return text.split()[1]


VATEX = [video(f"v{k}", en="e0 e1 p0 p1", zh="z0 z1 p0 p1") for k in range(3)]
VTT = [video(f"v{k}", en="s0 s1 s2", de="s0 s1 s2", fr="s0 s1 s2") for k in range(4)]
M30K = [video(f"v{k}", en="e1 e2 e3", de="d1 d2 d3", fr="e2", cs="e2") for k in range(2)]


def test_english_only_shows_each_english_caption_once_an_epoch():
    sampler = PivotSampler(VATEX, features(VATEX))
    rows = epoch_of(sampler, 0)
    assert Counter(row["text"] for row in rows) == {
        f"en {i} of v{k}": 1 for k in range(3) for i in ("e0", "e1", "p0", "p1")
    }
    assert set(rows[0]) == {"video_id", "language", "text", "video_features"}
    assert all(np.all(row["video_features"] == int(row["video_id"][1:])) for row in rows)


def test_mixed_languages_show_each_sentence_once_in_a_language_drawn_uniformly():
    videos = [video(f"v{k}", en="s0 s1", de="s0 s1", fr="s0 s1") for k in range(500)]
    sampler = PivotSampler(videos, features(videos), ["en", "de", "fr"], epoch_unit="sentences")
    assert len(sampler) == 1000
    rows = epoch_of(sampler, 3)
    assert Counter((row["video_id"], id_of(row["text"])) for row in rows).most_common(1)[0][1] == 1
    counts = Counter(row["language"] for row in rows)
    # 1000 draws from three: five standard deviations are 75.
    assert all(abs(count - 1000 / 3) < 75 for count in counts.values())
    again = {row["text"] for row in epoch_of(sampler, 4)}
    assert again != {row["text"] for row in rows}


@pytest.mark.parametrize("pivots", [False, True])
def test_an_epoch_of_pairs_shows_each_sentence_in_each_of_its_languages(pivots):
    """Table 3's "additional pairs": all of the English ones, and two more for each."""
    sampler = PivotSampler(VTT, features(VTT), ["en", "de", "fr"], pivots=pivots)
    for epoch in (0, 1):
        counts = Counter(row["text"] for row in epoch_of(sampler, epoch))
        assert counts == {f"{lang} s{s} of v{k}": 1 for k in range(4) for s in range(3) for lang in ("en", "de", "fr")}
    english = {row["text"] for row in epoch_of(PivotSampler(VTT, features(VTT)), 0)}
    assert english <= set(counts)


def test_partners_of_a_pair_change_from_epoch_to_epoch():
    sampler = PivotSampler(VTT, features(VTT), ["en", "de", "fr"], pivots=True)
    partners = [{row["text"]: row["pivot_text"] for row in epoch_of(sampler, epoch)} for epoch in range(20)]
    assert {epoch["en s0 of v0"] for epoch in partners} == {"de s0 of v0", "fr s0 of v0"}


def naive_triples(videos, languages):
    """All (x, y) of §3.3: aligned where one language translates the other, else every combination."""
    triples = set()
    for v in videos:
        captions = [c for c in v["captions"] if c["language"] in languages]
        ids = {lang: {c["caption_id"] for c in captions if c["language"] == lang} for lang in languages}
        for x, y in itertools.permutations(captions, 2):
            a, b = x["language"], y["language"]
            translated = ids[a] <= ids[b] or ids[b] <= ids[a]
            if a != b and (x["caption_id"] == y["caption_id"] or not translated):
                triples.add((v["video_id"], x["text"], y["text"]))
    return triples


@pytest.mark.parametrize(
    ("videos", "languages"),
    [(VATEX, ["en", "zh"]), (VTT, ["en", "de", "fr"]), (M30K, ["en", "de", "fr", "cs"])],
    ids=["VATEX: all combinations", "VTT: aligned", "Multi30K: both kinds"],
)
def test_over_the_epochs_triples_are_exactly_the_possible_combinations(videos, languages):
    sampler = PivotSampler(videos, features(videos), languages, pivots=True)
    drawn = {
        (row["video_id"], row["text"], row["pivot_text"]) for epoch in range(150) for row in epoch_of(sampler, epoch)
    }
    assert drawn == naive_triples(videos, languages)


def test_triples_show_each_sentence_once_and_name_both_languages():
    rows = epoch_of(PivotSampler(VATEX, features(VATEX), ["en", "zh"], pivots=True, epoch_unit="sentences"), 0)
    assert len(rows) == 3 * 6
    for row in rows:
        assert row["text"].startswith(row["language"]) and row["pivot_text"].startswith(row["pivot_language"])
        assert row["language"] != row["pivot_language"]
        assert row["text"].split()[-1] == row["pivot_text"].split()[-1] == row["video_id"]


def test_a_sentence_without_a_partner_is_left_out_of_triples_only():
    videos = [video("v0", en="s0 s1", de="s0"), video("v1", en="s0")]
    assert len(PivotSampler(videos, features(videos), ["en", "de"])) == 4
    triples = PivotSampler(videos, features(videos), ["en", "de"], pivots=True)
    assert [row["text"] for row in epoch_of(triples, 0)] == ["en s0 of v0", "de s0 of v0"]


@pytest.mark.parametrize("epoch_unit", ["pairs", "sentences"])
def test_draws_depend_on_seed_epoch_and_sentence_not_on_order_or_workers(epoch_unit):
    def texts(rows):
        return sorted((row["text"], row["pivot_text"]) for row in rows)

    options = {"languages": ["en", "de", "fr"], "pivots": True, "epoch_unit": epoch_unit, "seed": 5}
    sampler = PivotSampler(VTT, features(VTT), **options)
    loader = DataLoader(sampler, batch_size=5, shuffle=True, num_workers=2, collate_fn=list)
    for epoch in (0, 7):
        sampler.set_epoch(epoch)
        from_workers = texts(row for batch in loader for row in batch)
        assert from_workers == texts(epoch_of(sampler, epoch))
        assert from_workers == texts(epoch_of(PivotSampler(VTT[::-1], features(VTT), **options), epoch))
    assert texts(epoch_of(PivotSampler(VTT, features(VTT), **{**options, "seed": 6}), 7)) != from_workers


def test_videos_without_features_are_left_out_and_listed():
    sampler = PivotSampler(VTT, features(VTT[:1] + VTT[2:]), ["en"])
    assert sampler.videos_without_features == ["v1"]
    assert {row["video_id"] for row in epoch_of(sampler, 0)} == {"v0", "v2", "v3"}


def test_empty_captions_are_not_trained_on():
    videos = [{"video_id": "v0", "captions": [*VTT[0]["captions"], {"caption_id": "x", "language": "en", "text": " "}]}]
    assert len(PivotSampler(videos, features(videos), ["en"])) == 3


@pytest.mark.parametrize(
    ("videos", "options", "message"),
    [
        (VTT, {"languages": ["en"], "pivots": True}, "Triples need captions in two languages or more, not only in en"),
        (VTT, {"languages": ["xx"]}, "Unknown language 'xx'"),
        (VTT, {"epoch_unit": "words"}, "Unknown epoch_unit 'words': choose from pairs sentences"),
        (VTT, {"languages": ["sw"]}, r"No pairs in sw: of 4 videos with features \(0 have none\)"),
        ([video("v0", en="s0 s0")], {}, "Video v0 has caption 's0' twice in en"),
    ],
)
def test_what_cannot_be_sampled_is_refused(videos, options, message):
    with pytest.raises(ValueError, match=message):
        PivotSampler(videos, features(videos), **options)


def test_each_item_knows_its_group():
    videos = [one | {"family": f"family {number % 2}"} for number, one in enumerate(VTT)]
    sampler = PivotSampler(videos, features(videos), ["en"], group_by="family")
    of_video = {video["video_id"]: video["family"] for video in videos}
    assert sampler.groups == [of_video[sampler[index]["video_id"]] for index in range(len(sampler))]
    assert PivotSampler(videos, features(videos), ["en"]).groups is None
    with pytest.raises(PolyvidError, match="no column 'fam' to group by: it has video_id captions family"):
        PivotSampler(videos, features(videos), ["en"], group_by="fam")
