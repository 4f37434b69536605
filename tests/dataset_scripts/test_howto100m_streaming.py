"""The built dataset in the hands of datasets itself: streaming, shuffled, over several processes, resumed."""

import json
import re
from itertools import islice
from pathlib import Path

import pytest
import synthetic_howto100m as synthetic
from datasets import load_dataset
from datasets.distributed import split_dataset_by_node

from polyvid.dataset_scripts.build import build

NUM_VIDEOS = 70
CARD = Path(__file__).parents[2] / "dataset_scripts" / "multi_howto100m" / "README.md"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streaming")
    release = synthetic.write_release(folder / "raw", NUM_VIDEOS, ("en", "de"))
    build("multi_howto100m", ["en"], data_dir=release, output_dir=folder / "built", num_shards=8)
    return folder / "built"


ALL_IDS = [synthetic.video_id(number) for number in range(NUM_VIDEOS)]


def ids(rows) -> list[str]:
    return [row["video_id"] for row in rows]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_video_once_per_epoch(built, world_size):
    stream = load_dataset(str(built), "en", split="train", streaming=True).shuffle(seed=1, buffer_size=20)
    orders = []
    for epoch in range(2):
        order = []
        for rank in range(world_size):
            mine = split_dataset_by_node(stream, rank, world_size)
            mine.set_epoch(epoch)
            order += ids(mine)
        assert sorted(order) == ALL_IDS
        orders.append(order)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_resumed_stream_continues_with_the_next_video(built, world_size):
    """Not with `shuffle`: datasets 3.6 and 5 drop the shuffle buffer. The card shows the shuffle that resumes."""
    stream = load_dataset(str(built), "en", split="train", streaming=True)
    seen = []
    for rank in range(world_size):
        whole = ids(split_dataset_by_node(stream, rank, world_size))
        for stop in (1, len(whole) // 2, len(whole) - 1):
            stopped = split_dataset_by_node(stream, rank, world_size)
            before = ids(islice(stopped, stop))
            resumed = split_dataset_by_node(stream, rank, world_size)
            resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
            assert before + ids(resumed) == whole
        seen += whole
    assert sorted(seen) == ALL_IDS


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_shuffle_of_the_card_resumes_exactly(built, world_size):
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", CARD.read_text(), re.DOTALL) if "def shuffled" in block
    ]
    names: dict = {}
    exec(code, names)
    files = sorted(map(str, (built / "en").glob("*.parquet")))
    orders = []
    for epoch in range(2):
        order = []
        for rank in range(world_size):
            whole = ids(names["shuffled"](files, 0, epoch, rank, world_size))
            for stop in (1, len(whole) // 2, len(whole) - 1):
                stopped = names["shuffled"](files, 0, epoch, rank, world_size)
                before = ids(islice(stopped, stop))
                resumed = names["shuffled"](files, 0, epoch, rank, world_size)
                resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
                assert before + ids(resumed) == whole
            order += whole
        assert sorted(order) == ALL_IDS
        orders.append(order)
    assert orders[0] != orders[1]
