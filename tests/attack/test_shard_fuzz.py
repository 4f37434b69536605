"""Damaged feature shards: whatever bits flip and wherever a file ends, wrong features are never handed out.

Bounded by default; `make attack` tries more.
"""

import re

import numpy as np
import pytest
from budget import SEED

from polyvid.dataset_scripts.building import shard_name, write_shard
from polyvid.dataset_scripts.features import FEATURES, features_to_row, rows_to_table
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.data.videos import VideoFeatures

TRIES = 1500

pytestmark = pytest.mark.usefixtures("little_memory")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A shard of eight videos in two row groups, as bytes, and its features."""
    generator = np.random.default_rng(0)
    features = {f"video{n}": generator.normal(size=(2 + n, 16)).astype(np.float16) for n in range(8)}
    rows = [features_to_row(video_id, array) for video_id, array in features.items()]
    path = tmp_path_factory.mktemp("shard") / shard_name("train", 0, 1)
    write_shard([rows_to_table(rows[:5]), rows_to_table(rows[5:])], path, FEATURES.arrow_schema.remove_metadata())
    return path.read_bytes(), features


def read(folder, content: bytes) -> dict[str, np.ndarray]:
    (folder / shard_name("train", 0, 1)).write_bytes(content)
    return dict(VideoFeatures(folder))


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(np.array_equal(found[key], expected[key]) for key in expected)


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """One to four flipped bits, a hole of zeros, a part that is missing, or an end that is."""
    data = bytearray(content)
    kind = generator.integers(10)
    at = int(generator.integers(len(data)))
    if kind < 6:
        for _ in range(int(generator.integers(1, 5))):
            data[at] ^= 1 << int(generator.integers(8))
            at = int(generator.integers(len(data)))
    elif kind < 8:
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    elif kind == 8:
        del data[at : at + 16]
    else:
        del data[at:]
    return bytes(data)


def test_a_whole_shard_is_read(whole, tmp_path):
    content, features = whole
    assert same(read(tmp_path, content), features)


def test_a_damaged_page_is_refused_by_the_name_of_its_file(whole, tmp_path):
    content, features = whole
    arrays = [array.tobytes() for array in features.values()]
    at = content.index(next(array for array in arrays if content.count(array) == 1))  # statistics repeat some
    changed = bytearray(content)
    changed[at + 5] ^= 4
    with pytest.raises(PolyvidError, match=r"train-00000-of-00001.parquet is damaged \(.*CRC.*\): delete it and make"):
        read(tmp_path, bytes(changed))


def test_no_flipped_bit_of_the_footer_gives_wrong_features(whole, tmp_path):
    """It has no checksum: rows were lost without a word where their number was damaged, and ids came as bytes."""
    content, features = whole
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    refused = 0
    for bit in range(8 * footer, 8 * len(content)):
        data = bytearray(content)
        data[bit // 8] ^= 1 << bit % 8
        try:
            found = read(tmp_path, bytes(data))
        except PolyvidError:
            refused += 1
        else:
            assert same(found, features), f"bit {bit}"
    assert refused


def test_a_page_whose_checksum_is_lost_is_refused(whole, tmp_path):
    """The mark of a checksum is a bit of the page's header: without it pyarrow reads whatever the page says."""
    content, features = whole
    lost = 0
    pages = content[: len(content) - 8 - int.from_bytes(content[-8:-4], "little")]
    # Type of page, two sizes, checksum, each after the mark of an i32; then the mark of a struct.
    for found in re.finditer(rb"\x15\x00\x15[^\x15]{1,3}\x15[^\x15]{1,3}\x15[^\x15]{4,5}\x1c", pages):
        data = bytearray(content)
        mark = found.start() + found[0].rindex(b"\x15")
        data[mark] ^= 1  # the mark of an i16, which readers do not take for a checksum
        with pytest.raises(PolyvidError, match="some of its pages have a checksum and others have none"):
            read(tmp_path, bytes(data))
        lost += 1
    assert lost >= 6  # three columns in two row groups


def test_no_damage_gives_wrong_features(whole, tmp_path, attack):
    content, features = whole
    generator = np.random.default_rng([1, SEED])
    refused, wrong = 0, []
    for number in attack.rounds(TRIES):
        data = damaged(content, generator)
        try:
            found = read(tmp_path, data)
        except PolyvidError:
            refused += 1
            continue
        if not same(found, features):
            wrong.append(number)
    attack.note = f"{refused} refused, {len(wrong)} wrong, the others without effect"
    assert not wrong
    assert attack.tried < 100 or refused > attack.tried / 2
