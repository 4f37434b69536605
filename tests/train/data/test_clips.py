"""Clips of §5.3: random times, a drawn language, the subtitles nearest in time; the same in every process."""

import json
from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic_howto100m as synthetic
import torch
from torch.utils.data import DataLoader

from polyvid.dataset_scripts.build import build
from polyvid.dataset_scripts.features import FEATURES, features_to_row
from polyvid.dataset_scripts.join import join
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.train.data.clips import ClipDataset, ClipSampler
from tiny import tiny_processor

NUM_VIDEOS = 120
NUM_SHARDS = 8


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    release = synthetic.write_release(folder / "raw", NUM_VIDEOS)
    build("multi_howto100m", ["all", "howto100m"], data_dir=release, output_dir=folder, num_shards=NUM_SHARDS)
    features = synthetic.write_features(folder / "features", range(NUM_VIDEOS), NUM_SHARDS)
    for config in ("all", "howto100m"):
        join(folder / config, features, folder / f"joined-{config}")
    return sorted((folder / "joined-all").glob("*.parquet"))


@pytest.fixture(scope="module")
def table(shards):
    return pa.concat_tables([pq.read_table(shard) for shard in shards])


def videos(seconds: int, count: int = 1, **languages) -> pa.Table:
    """Joined rows of alike videos; each language is a list of (start, end, text)."""
    row = features_to_row("", np.arange(seconds, dtype=np.float16)[:, None])
    schema = FEATURES.arrow_schema.remove_metadata()
    times = pa.list_(pa.float64())
    for language, subtitles in languages.items():
        start, end, text = zip(*subtitles, strict=True) if subtitles else ([], [], [])
        row[language] = {"text": list(text), "start": list(start), "end": list(end)}
        schema = schema.append(
            pa.field(language, pa.struct({"text": pa.list_(pa.string()), "start": times, "end": times}))
        )
    return pa.Table.from_pylist([row | {"video_id": f"v{number}"} for number in range(count)], schema=schema)


def nearest_by_hand(subtitles: dict, start: float, end: float) -> str:
    """A plain loop over §5.3: the subtitles that overlap the clip and those between them, else the nearest one."""
    times = list(zip(subtitles["start"], subtitles["end"], strict=True))
    overlapping = [i for i, (s, e) in enumerate(times) if s < end and e > start]
    if overlapping:
        chosen = range(overlapping[0], overlapping[-1] + 1)
    else:
        gaps = [max(s - end, start - e) for s, e in times]
        chosen = [gaps.index(min(gaps))]
    return " ".join(subtitles["text"][i] for i in chosen)


def test_clip_is_a_piece_of_the_video_with_what_is_said_in_it(table):
    for epoch in range(4):
        clips = ClipSampler(seed=3).sample(table, epoch)
        assert [clip["video_id"] for clip in clips] == table["video_id"].to_pylist()
        for clip in clips:
            number, start, end = int(clip["video_id"][:7]), clip["start"], clip["end"]
            assert 0 <= start < end <= synthetic.duration(number) and end - start <= 128
            np.testing.assert_array_equal(clip["video_features"], synthetic.features(number)[start:end])
            assert clip["text"] == nearest_by_hand(synthetic.subtitles(clip["language"], number), start, end)


def test_howto100m_alone_gives_english_clips(shards):
    """The paper's MP: the flat columns of one language."""
    flat = pq.read_table(shards[0].parents[1] / "joined-howto100m" / shards[0].name)
    for clip in ClipSampler(languages=("en",)).sample(flat, 0):
        expected = nearest_by_hand(synthetic.subtitles("en", int(clip["video_id"][:7])), clip["start"], clip["end"])
        assert (clip["language"], clip["text"]) == ("en", expected)


@pytest.mark.parametrize(
    "subtitles, expected",
    [
        ([(0, 1, "far"), (3, 4, "near"), (12, 13, "later")], "near"),
        ([(0, 4, "before"), (10.5, 12, "just behind")], "just behind"),
        ([(0, 4.9, "just before"), (10.5, 12, "behind")], "just before"),
        ([(0, 4, "long over"), (1, 2, "short")], "long over"),
        ([(20, 21, "only")], "only"),
        ([(0, 1, "a"), (4, 6, "b"), (6, 6.5, "c"), (9, 11, "d"), (10, 12, "e")], "b c d"),
        ([(0, 9, "long"), (1, 2, "gone"), (6, 7, "c")], "long gone c"),  # consecutive: none is left out between
        ([(5, 10, "touches both ends"), (10, 11, "starts at the end")], "touches both ends"),
    ],
)
def test_nearest_subtitles_of_the_clip_from_5_to_10_seconds(monkeypatch, subtitles, expected):
    monkeypatch.setattr("polyvid.train.data.clips._uniforms", lambda *key: (5 / 30, 9.5 / 30, 0.0))
    (clip,) = ClipSampler(languages=("en",)).sample(videos(30, en=subtitles), 0)
    assert (clip["start"], clip["end"], clip["text"]) == (5, 10, expected)


def test_start_and_end_are_uniform_times():
    """|u - v| of two uniform numbers is 1/3 on average, their middle 1/2; longer clips than 128 s are cut."""
    clips = ClipSampler(("en",)).sample(videos(120, count=3000, en=[(0, 1, "x")]), 0)
    lengths = np.array([clip["end"] - clip["start"] for clip in clips])
    middles = np.array([(clip["end"] + clip["start"]) / 2 for clip in clips])
    assert abs(lengths.mean() - (40 + 1)) < 1.5  # whole seconds widen it by one on average
    assert abs(middles.mean() - 60) < 1.5
    long = ClipSampler(("en",)).sample(videos(1000, count=300, en=[(0, 1, "x")]), 0)
    assert max(clip["end"] - clip["start"] for clip in long) == 128


def test_languages_are_drawn_from_those_the_video_has():
    languages = {language: [(0, 9, language)] for language in LANGUAGES} | {"sw": [], "vi": []}
    clips = ClipSampler().sample(videos(9, count=3500, **languages), 0)
    drawn = Counter(clip["language"] for clip in clips)
    assert set(drawn) == set(LANGUAGES) - {"sw", "vi"}
    assert all(abs(count - 500) < 5 * 500**0.5 for count in drawn.values())  # five standard deviations
    assert all(clip["text"] == clip["language"] for clip in clips)


def test_videos_without_subtitles_in_these_languages_give_no_clip():
    assert ClipSampler(("de",)).sample(videos(9, de=[]), 0) == []
    assert ClipSampler(("de", "en")).sample(videos(9, de=[], en=[(0, 1, "x")]), 0)[0]["language"] == "en"


def test_wrong_arguments_are_refused(shards, table):
    with pytest.raises(ValueError, match="Unknown language 'jp'"):
        ClipSampler(("en", "jp"))
    with pytest.raises(ValueError, match="no subtitles in de"):
        ClipSampler(("de",)).sample(table.drop_columns(["de"]), 0)
    with pytest.raises(ValueError, match="8 shards cannot feed 9 processes"):
        ClipDataset(shards, ClipSampler(), rank=0, world_size=9)


# --- the stream ------------------------------------------------------------------------------------------------------


def same(first, second) -> bool:
    return len(first) == len(second) and all(
        {**a, "video_features": 0} == {**b, "video_features": 0}
        and np.array_equal(a["video_features"], b["video_features"])
        for a, b in zip(first, second, strict=True)
    )


def test_clips_depend_on_seed_epoch_and_video_only(shards):
    """Any number of processes and workers, any window: the same clips, every video once."""

    def clips(epoch=1, seed=0, processes=1, workers=0, **arguments):
        found = []
        for rank in range(processes):
            dataset = ClipDataset(shards, ClipSampler(seed=seed), rank=rank, world_size=processes, **arguments)
            dataset.set_epoch(epoch)
            found += DataLoader(dataset, batch_size=None, num_workers=workers) if workers else dataset
        return sorted(found, key=lambda clip: clip["video_id"])

    reference = clips()
    assert [clip["video_id"] for clip in reference] == [synthetic.video_id(number) for number in range(NUM_VIDEOS)]
    assert same(clips(processes=2), reference) and same(clips(processes=4, window=1), reference)
    workers = clips(processes=2, workers=2)
    assert [clip["text"] for clip in workers] == [clip["text"] for clip in reference]
    assert not same(clips(epoch=2), reference) and not same(clips(seed=1), reference)


def test_order_is_shuffled_differently_every_epoch(shards):
    dataset, orders = ClipDataset(shards, ClipSampler()), []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        orders.append([clip["video_id"] for clip in dataset])
        assert [clip["video_id"] for clip in dataset] == orders[-1]
    neighbours = [{frozenset(pair) for pair in pairwise(order)} for order in orders]
    assert len(neighbours[0] & neighbours[1]) < 0.1 * NUM_VIDEOS


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_resumed_epoch_continues_with_the_next_clip(shards, world_size):
    """Stopped after any number of clips: what was yielded before and after is the uninterrupted epoch."""
    seen = []
    for rank in range(world_size):
        whole = ClipDataset(shards, ClipSampler(), rank, world_size, window=2)
        whole.set_epoch(5)
        expected = list(whole)
        for stop in sorted({0, 1, 2, len(expected) // 2, len(expected) - 1, len(expected)}):
            stopped = ClipDataset(shards, ClipSampler(), rank, world_size, window=2)
            stopped.set_epoch(5)
            before = list(islice(stopped, stop))
            state = json.loads(json.dumps(stopped.state_dict()))
            resumed = ClipDataset(shards, ClipSampler(), rank, world_size, window=2)
            resumed.load_state_dict(state)
            assert resumed.epoch == 5 and resumed.state_dict() == state
            assert same(before + list(resumed), expected)
            assert len(list(resumed)) == len(expected)  # and then epochs are whole again
        seen += [clip["video_id"] for clip in expected]
    assert sorted(seen) == [synthetic.video_id(number) for number in range(NUM_VIDEOS)]


def test_position_of_another_arrangement_is_refused(shards):
    state = ClipDataset(shards, ClipSampler(), 0, 2).state_dict()
    with pytest.raises(ValueError, match="saved with process 0 of 2, now it is 0 of 4"):
        ClipDataset(shards, ClipSampler(), 0, 4).load_state_dict(state)
    with pytest.raises(ValueError, match="saved with seed 0, now it is 1"):
        ClipDataset(shards, ClipSampler(seed=1), 0, 2).load_state_dict(state)


def test_workers_follow_the_epoch(shards):
    dataset = ClipDataset(shards, ClipSampler())
    loader = DataLoader(dataset, batch_size=None, num_workers=1)
    texts = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        texts.append([clip["text"] for clip in loader])
    assert texts[0] == texts[2] != texts[1]


def test_footers_are_read_once_and_shards_are_closed(shards, monkeypatch):
    """A checkpoint asks for the number of steps; with 1,000 shards that is no reason to open them all again."""
    opened, closed = [], []

    class Counted(pq.ParquetFile):
        def __init__(self, source, **options):
            opened.append(source)
            super().__init__(source, **options)

        def close(self, force=False):
            closed.append(1)
            super().close(force)

    monkeypatch.setattr(pq, "ParquetFile", Counted)
    dataset = ClipDataset(shards, ClipSampler())
    assert dataset.clips_per_process(0) == dataset.clips_per_process(1) == NUM_VIDEOS
    assert len(opened) == len(closed) == NUM_SHARDS
    assert len(list(dataset)) == NUM_VIDEOS
    assert len(list(islice(dataset, 3))) == 3  # left in the middle
    assert len(opened) == len(closed) == 3 * NUM_SHARDS


def test_every_process_has_the_promised_number_of_clips(shards):
    datasets = [ClipDataset(shards, ClipSampler(), rank, 4) for rank in range(4)]
    for epoch in range(3):
        lengths = []
        for dataset in datasets:
            dataset.set_epoch(epoch)
            lengths.append(len(list(dataset)))
        assert {dataset.clips_per_process(epoch) for dataset in datasets} == {min(lengths)}
        assert sum(lengths) == NUM_VIDEOS


def test_clips_make_a_batch(shards):
    """What the sampler yields is what the collator takes."""
    from polyvid.train.data.collate import MMPCollator

    collator = MMPCollator(tiny_processor(feature_size=8), max_text_length=192, max_video_length=128)
    batch = next(iter(DataLoader(ClipDataset(shards, ClipSampler()), batch_size=4, collate_fn=collator)))
    assert batch["video_features"].shape[0] == batch["input_ids"].shape[0] == 4
    assert torch.isfinite(batch["video_features"]).all() and batch["input_ids"].shape[1] <= 192
