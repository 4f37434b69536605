"""Subtitle files, mutated: whatever happens to a file, no row is lost uncounted, and an error names file and byte.

The oracle is slow and independent: Python's own parser over the whole file, then one rule after the other, row by row.
Bounded by default; `make attack` tries more.
"""

import json
import math
import random
from pathlib import Path

import pytest
from budget import MINUTES, seed_of

from polyvid.dataset_scripts.multi_howto100m import subtitle_json
from polyvid.dataset_scripts.multi_howto100m.subtitle_json import RepairReport, SubtitleFileError, read_subtitles

BOUNDED_MUTATIONS = 1500
SKIPPED = ("duplicate_video_id", "malformed_video", "length_mismatch", "no_subtitles")

TOKENS = [b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"null", b"true", b"NaN", b"-1", b"1e999", b"9" * 400]
TOKENS += [b"9" * 5000, b"\x00", b"\xff", b"\n", b" ", b"{}", b"[]", b'""', b'"text":', b'"start": {', b"]}, "]
TOKENS += [b']}, "x": {"text": [', b'"v1": ', b"\\ud83d", b"\\u0000", b"}}", b'{"video_id": "v1", "text": []}']
TOKENS += [b"null: {", b'"video_id": "q", ']


class Pairs(list):
    """A JSON object, told apart from an array."""


def oracle(content: bytes) -> tuple[list[dict], list[str], int] | None:
    """The rows, the reason of every video without one, and the number of videos; None where it is no such file."""
    text = content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    try:
        top = json.loads(text, object_pairs_hook=Pairs, parse_int=float)
    except (ValueError, RecursionError):
        return None
    if not isinstance(top, Pairs):
        return None
    rows, skipped, seen = [], [], set()
    for video_id, value in top:
        video_id = replaced(video_id)
        reason, row = usable(value)
        if video_id in seen:
            reason, row = "duplicate_video_id", None
        seen.add(video_id)
        if row is None:
            skipped.append(reason)
        else:
            rows.append({"video_id": video_id, **row})
    return rows, sorted(skipped), len(top)


def usable(value) -> tuple[str, dict | None]:
    if not isinstance(value, Pairs):
        return "malformed_video", None
    arrays = {}
    for key, array in value:
        if key in ("text", "start", "end"):
            if key in arrays or not isinstance(array, list) or isinstance(array, Pairs):
                return "malformed_video", None
            arrays[key] = array
    if len(arrays) < 3:
        return "malformed_video", None
    if len({len(array) for array in arrays.values()}) > 1:
        return "length_mismatch", None
    kept = []
    for text, start, end in zip(arrays["text"], arrays["start"], arrays["end"], strict=True):
        if type(text) is str and text.strip() and all(type(t) is float and math.isfinite(t) for t in (start, end)):
            if start <= end:
                kept.append((max(start, 0.0), max(end, 0.0) if start < 0 else end, replaced(text)))
    if not kept:
        return "no_subtitles", None
    kept.sort(key=lambda subtitle: subtitle[0])
    return "", {"text": [k[2] for k in kept], "start": [k[0] for k in kept], "end": [k[1] for k in kept]}


def replaced(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read(path: Path) -> tuple[list[dict], RepairReport]:
    report = RepairReport(str(path))
    return [row for table in read_subtitles(path, report) for row in table.to_pylist()], report


def check(path: Path, content: bytes) -> bool:
    """Compare with the oracle; returns whether the file could be read."""
    path.write_bytes(content)
    expected = oracle(content)
    try:
        rows, report = read(path)
    except SubtitleFileError as error:
        assert f"{path}, byte " in str(error)
        assert expected is None, f"refused, though it is valid: {error}"
        return False
    assert expected is not None, "read, though it is not valid"
    assert rows == expected[0]
    skipped = [reason for reason in SKIPPED for _ in report.reasons.get(reason, {"video_ids": []})["video_ids"]]
    assert sorted(skipped) == expected[1]
    assert (report.videos_read, report.videos_written) == (expected[2], len(rows))
    assert report.subtitles_written == sum(len(row["text"]) for row in rows)
    return True


def seed_file(rng: random.Random) -> bytes:
    videos = []
    for number in range(rng.randint(1, 6)):
        count = rng.randint(1, 3)
        starts = [rng.choice((number, rng.random() * 9, 5)) for _ in range(count)]
        texts = [rng.choice(("ein Öl", "]}, ", "water\u2028", "😀", "}", '"', "x")) for _ in range(count)]
        value = {"text": texts, "start": sorted(starts), "end": [start + 1 for start in sorted(starts)]}
        if rng.random() < 0.2:
            value["meta"] = rng.choice((1, [{"y": [1]}], {"q": {"z": [1]}, "start": dict(value)}, "text"))
        keys = rng.sample(sorted(value), len(value))
        key = json.dumps(f"v{rng.randint(0, 7)}", ensure_ascii=False)
        videos.append(f"{key}: {json.dumps({k: value[k] for k in keys}, ensure_ascii=rng.random() < 0.5)}")
    return ("{" + ", ".join(videos) + "}").encode()


def mutated(content: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, to = sorted(rng.randint(0, len(content)) for _ in range(2))
        kind = rng.randrange(6)
        if kind == 0:
            content = content[:at] + rng.choice(TOKENS) + content[at:]
        elif kind == 1:
            content = content[:at] + content[at + rng.randint(1, 3) :]
        elif kind == 2:  # a structural character or a whole value becomes another
            places = [i for i, byte in enumerate(content) if byte in b'{}[],:"'] or [0]
            place = rng.choice(places)
            content = content[:place] + rng.choice(TOKENS) + content[place + 1 :]
        elif kind == 3:
            content = content[:at] + content[at:to] * 2 + content[to:]
        elif kind == 4:
            content = content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
        else:
            content = content[:to] if rng.random() < 0.3 else content[:at] + content[to:]
    return content


def compare(path: Path, rng: random.Random, monkeypatch) -> bool:
    monkeypatch.setattr(subtitle_json, "BLOCK_BYTES", rng.choice((16, 60, 200, 1 << 20)))
    content = mutated(seed_file(rng), rng)
    try:
        return check(path, content)
    except BaseException:
        print(f"BLOCK_BYTES {subtitle_json.BLOCK_BYTES}: {content!r}")
        raise


def test_mutated_files_give_the_rows_of_a_slow_reader_or_an_error_with_its_position(tmp_path, monkeypatch):
    rng = random.Random(0)
    read = sum(compare(tmp_path / "how2_de.json", rng, monkeypatch) for _ in range(BOUNDED_MUTATIONS))
    assert BOUNDED_MUTATIONS * 0.05 < read < BOUNDED_MUTATIONS * 0.95, "both kinds must be met"


@pytest.mark.slow
@pytest.mark.skipif(not MINUTES, reason="`make attack` does")
def test_mutations_for_minutes(tmp_path, monkeypatch, attack):
    rng, read = random.Random(seed_of("subtitles")), 0
    for _ in attack.rounds(0):
        read += compare(tmp_path / "how2_de.json", rng, monkeypatch)
    attack.note = f"{read} readable, with the rows of the slow reader"


GOOD = '{"text": ["eins"], "start": [0.5], "end": [3.0]}'


@pytest.mark.parametrize(
    "content",
    [
        "{null: " + GOOD + "}",
        '{"a": ' + GOOD + ' "b": ' + GOOD + "}",
        '{"a": ' + GOOD + GOOD + "}",
        '{"a": ' + GOOD + " null}",
        '{"a": ' + GOOD + ",}",
        "{{}}",
        "{" + GOOD + "}",
        "{}}",
        '{"a": ' + GOOD + ',\f"b": ' + GOOD + "}",
        '\v{"a": ' + GOOD + "}",
        '{\f"a": ' + GOOD + "}",
        '{"a":\f' + GOOD + "}",
        '{"a": ' + GOOD + "}\f",
    ],
)
def test_what_is_not_json_is_refused_with_its_position(tmp_path, content):
    assert not check(tmp_path / "how2_de.json", content.encode())


@pytest.mark.parametrize(
    "value",
    [
        '{"text": ["eins"], "start": [true], "end": [3.0]}',
        '{"text": ["eins"], "start": [0], "end": [' + "9" * 400 + "]}",
        '{"text": ["eins"], "start": [0], "end": [' + "9" * 5000 + "]}",
        '{"text": {"0": "eins"}, "start": [0], "end": [3]}',
        '{"text": {}, "start": {}, "end": {}}',
        '{"text": ["eins"], "text": ["zwei"], "start": [0], "end": [3]}',
        "[]",
        '[["text", ["eins"]], ["start", [0]], ["end", [3]]]',
    ],
)
def test_a_video_that_cannot_be_used_is_counted(tmp_path, value):
    """By both parsers: Arrow's refuses NaN, so Python's reads a file that holds one."""
    for other in (GOOD, '{"text": ["eins", NaN], "start": [0.5, 1], "end": [3.0, 2]}'):
        content = '{"a": ' + GOOD + ', "bad": ' + value + ', "b": ' + other + "}"
        assert check(tmp_path / "how2_de.json", content.encode())
        rows, report = read(tmp_path / "how2_de.json")
        assert [row["video_id"] for row in rows] == ["a", "b"]


def test_an_id_that_comes_three_times_is_skipped_and_counted_twice(tmp_path):
    content = '{"a": ' + GOOD + ', "a": ' + GOOD + ', "a": ' + GOOD + "}"
    assert check(tmp_path / "how2_de.json", content.encode())
    _, report = read(tmp_path / "how2_de.json")
    assert report.to_dict()["reasons"]["duplicate_video_id"]["videos"] == 2


def test_a_seam_inside_an_unknown_key_is_no_seam(tmp_path, monkeypatch):
    inner = '"meta": {"q": {"z": [1]}, "start": {"text": [2]}}'
    content = "{" + ", ".join(f'"v{n}": {{{inner}, {GOOD[1:]}' for n in range(20)) + "}"
    for block_bytes in (20, 90, 1000):
        monkeypatch.setattr(subtitle_json, "BLOCK_BYTES", block_bytes)
        assert check(tmp_path / "how2_de.json", content.encode())
