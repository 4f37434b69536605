"""Damaged and forged index files: each is refused in one line that names it, or gives the hits that it gave before.

Bounded by default to some hundred files each; `make attack` tries more. With `-s` it prints how many were tried, and
how many of them were refused.
"""

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from budget import seed_of

from polyvid.modeling import VideoIndex
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.index_file_mmp import read_index_file, write_index_file

FILES = 250
VIDEOS, WIDTH = 40, 16
# Values at and beyond the ends of what offsets, codes, seconds, scales and bytes can be.
EXTREMES = [0, 1, -1, -2, 39, 40, 41, 127, 128, 255, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), torch.nan, torch.inf]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("little_memory")]


def make_index(kind: str) -> VideoIndex:
    """Whole videos as float16, or moments as int8, both with metadata and names in several scripts; or with faiss."""
    generator = torch.Generator().manual_seed(0)
    names = [f"vidéo 视频 {i}" for i in range(VIDEOS)]
    metadata = {name: {"category": ["Sport", "料理"][i % 2], "year": 2000 + i % 7} for i, name in enumerate(names[1:])}
    if kind != "moments":
        index = VideoIndex(torch.randn(VIDEOS, WIDTH, generator=generator), names, metadata=metadata)
        return index.with_engine("faiss", cells=2) if kind == "faiss" else index
    spans = [[(second, second + 2) for second in range(1 + i % 3)] for i in range(VIDEOS)]
    embeds = torch.randn(sum(map(len, spans)), WIDTH, generator=generator)
    return VideoIndex(embeds, names, spans=spans, metadata=metadata, storage="int8")


def searches(index: VideoIndex) -> list:
    """Hits of all kinds of search, with every video among them."""
    queries = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1))
    return [
        index.search(queries, k=200),
        index.search(queries, k=5, where={"category": "Sport", "year": (2001, 2004)}),
        index.search(queries, k=5, one_per_video=True),
        list(index.video_ids),
    ]


def damaged(whole: bytes, chance: random.Random) -> bytes:
    """One damage of those that disks, networks and people do to files."""
    data = bytearray(whole)
    header = 8 + int.from_bytes(whole[:8], "little")
    # The header would seldom be hit otherwise.
    at = chance.randrange(header) if chance.random() < 0.3 else chance.randrange(len(data))
    kind = chance.choice(["flip", "flip", "flip", "byte", "zeros", "cut", "insert", "delete", "move", "append"])
    length = chance.choice([1, 4, 16, 512])
    if kind == "flip":
        data[at] ^= 1 << chance.randrange(8)
    elif kind == "byte":
        data[at] = chance.randrange(256)
    elif kind == "zeros":
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == "cut":
        del data[at:]
    elif kind == "insert":
        data[at:at] = chance.randbytes(length)
    elif kind == "delete":
        del data[at : at + length]
    elif kind == "move":
        to = chance.randrange(len(data))
        data[to : to + length] = data[at : at + length]
    else:
        data += chance.randbytes(length)
    return bytes(data)


def forged(tensors: dict[str, torch.Tensor], chance: random.Random) -> dict[str, torch.Tensor]:
    """One tensor that no program of ours would write, in a file whose checksums are right."""
    name = chance.choice(sorted(tensors))
    tensor = tensors[name].clone()
    kind = chance.choice(["value", "value", "value", "drop", "cut", "grow", "type", "shape", "other"])
    if kind == "value":
        value = chance.choice(EXTREMES)
        flat = tensor.view(-1)
        if not tensor.is_floating_point():
            limits = torch.iinfo(tensor.dtype)
            value = 7 if value != value or abs(value) == float("inf") else min(max(value, limits.min), limits.max)
        flat[chance.randrange(len(flat))] = value
    elif kind == "cut":
        tensor = tensor[:-1]
    elif kind == "grow":
        tensor = torch.cat([tensor, tensor[-1:]])
    elif kind == "type":
        tensor = tensor.to(chance.choice([torch.float32, torch.int64, torch.int32, torch.uint8, torch.bool]))
    elif kind == "shape":
        tensor = tensor[None]
    elif kind == "other":
        tensor = tensors[chance.choice(sorted(tensors))].clone()
    return {key: value for key, value in tensors.items() if key != name} | ({} if kind == "drop" else {name: tensor})


def refusal(path, verify: bool = True):
    """The error line of loading and searching a file, or what it finds."""
    try:
        return searches(VideoIndex.load(path, verify=verify))
    except PolyvidError as error:
        return str(error)


@pytest.mark.parametrize("kind", ["videos", "moments", "faiss"])
def test_a_damaged_index_is_refused_or_gives_the_same_hits(kind, tmp_path, attack):
    if kind == "faiss":
        pytest.importorskip("faiss")
    path = tmp_path / "whole.safetensors"
    make_index(kind).save(path)
    whole, expected = path.read_bytes(), searches(VideoIndex.load(path))
    refused = 0
    for number in attack.rounds(FILES):
        seed = seed_of(kind, number)
        path = tmp_path / f"damaged-{number}.safetensors"  # a new file: the old one may still be mapped
        path.write_bytes(damaged(whole, random.Random(seed)))
        found = refusal(path)
        if isinstance(found, str):
            refused += 1
            assert found.startswith(f"{str(path)!r} is not a video index that can be read: "), (seed, found)
            assert "\n" not in found, (seed, found)
        else:
            assert found == expected, f"seed {seed}: wrong hits"
        path.unlink()
    attack.note = f"{refused} refused, the others without effect"
    assert (
        attack.tried < 100 or refused > 0.9 * attack.tried
    )  # the rest did not change: a byte by itself, zeros by zeros


@pytest.mark.parametrize("kind", ["videos", "moments"])
def test_offsets_and_codes_out_of_range_are_refused_whatever_the_checksums_say(kind, tmp_path, attack):
    """A forged file may hold other names or vectors, but no search may read outside of it or end in another error."""
    path = tmp_path / "whole.safetensors"
    make_index(kind).save(path)
    tensors, about = read_index_file(path)
    refused = 0
    for number in attack.rounds(FILES):
        seed = seed_of(kind, number)
        path = tmp_path / f"forged-{number}.safetensors"
        write_index_file(path, forged(tensors, random.Random(seed)), about)
        for verify in (True, False):
            found = refusal(path, verify)
            if isinstance(found, str):
                assert found.startswith(f"{str(path)!r} is not a video index that can be read: "), (seed, found)
                assert "checksum" not in found and "\n" not in found, (seed, found)
            else:
                assert all(isinstance(name, str) for name in found[-1]), seed
        refused += isinstance(found, str)
        path.unlink()
    attack.note = f"{refused} refused, the others searched without an error"
    assert attack.tried < 100 or refused > 0.3 * attack.tried


FORGED_CELLS = """
import random, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from budget import seed_of
from memory import limited_memory
from test_index_fuzz import damaged_cells, make_index, refusal
from polyvid.modeling.index_file_mmp import read_index_file, write_index_file
folder, codes, first, last = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
make_index("videos").with_engine("faiss", cells=2, codes=codes).save(folder / "whole.safetensors")
tensors, about = read_index_file(folder / "whole.safetensors")
for number in range(first, last):
    cells = damaged_cells(tensors["faiss"], random.Random(seed_of(codes, number)))
    path = folder / f"forged-{number}.safetensors"
    write_index_file(path, tensors | {"faiss": cells}, about)
    print(number, end=" ", flush=True)
    with limited_memory():
        found = refusal(path, verify=False)
    print(repr(found) if isinstance(found, str) else "searched", flush=True)
    path.unlink()
"""


def damaged_cells(cells: torch.Tensor, chance: random.Random) -> torch.Tensor:
    """What faiss will be given to read, as a file would hold it whose checksums were made afterwards."""
    data = bytearray(cells.numpy().tobytes())
    at = chance.choice([chance.randrange(len(data)), chance.randrange(200), len(data) - 1 - chance.randrange(600)])
    kind = chance.choice(["flip", "number", "cut", "delete", "insert"])
    if kind == "flip":
        data[at] ^= 1 << chance.randrange(8)
    elif kind == "number":
        data[at : at + 8] = chance.choice([chance.randbytes(8), b"\xff" * 8, bytes(8)])[: len(data) - at]
    elif kind == "cut":
        del data[max(1, at) :]
    elif kind == "delete":
        del data[at : at + 8]
    else:
        data[at:at] = chance.randbytes(8)
    return torch.tensor(data, dtype=torch.uint8)


@pytest.mark.parametrize("codes", ["int8", "binary", "float16"])
def test_forged_cells_of_faiss_end_in_one_line_and_not_the_interpreter(codes, tmp_path, attack):
    """In processes of their own, since faiss reads them in C++; without checksums, as `verify=False` is."""
    pytest.importorskip("faiss")
    refused = 0
    for number in attack.rounds(1):
        arguments = [Path(__file__).parent, tmp_path, codes, number * FILES, (number + 1) * FILES]
        done = subprocess.run(
            [sys.executable, "-c", FORGED_CELLS, *map(str, arguments)], capture_output=True, text=True
        )
        lines = done.stdout.splitlines()
        assert done.returncode == 0, (lines[-1:], done.stderr[-2000:])
        found = sum("is not a video index that can be read" in line for line in lines)
        assert found + sum(line.endswith(" searched") for line in lines) == len(lines) == FILES
        refused += found
    attack.note = f"of {FILES} files in each, {refused} refused, the others searched without an error"
    assert refused > attack.tried * FILES / 2


def test_forged_cells_of_faiss_get_no_more_memory_than_they_take(tmp_path):
    """A length of terabytes stands for one of the lists: the system ended the process that made room for it."""
    faiss = pytest.importorskip("faiss")
    if not hasattr(faiss, "set_deserialization_vector_byte_limit"):
        pytest.skip("this faiss has no such limit")
    path = tmp_path / "forged.safetensors"
    make_index("videos").with_engine("faiss", cells=2, codes="float16").save(path)
    tensors, about = read_index_file(path)
    data, refused = tensors["faiss"].numpy().tobytes(), []
    huge = (1 << 28).to_bytes(8, "little")  # lists, or entries of one
    for at in range(0, len(data) - 8):
        size = int.from_bytes(data[at : at + 8], "little")
        if 0 < size <= len(data):  # what may be a length
            forged = data[:at] + huge + data[at + 8 :]
            cells = torch.frombuffer(bytearray(forged), dtype=torch.uint8)
            write_index_file(path, tensors | {"faiss": cells}, about)
            refused.append(refusal(path, verify=False))
    for limit in ("deserialization_vector_byte_limit", "deserialization_loop_limit"):
        assert any(limit in str(found) for found in refused), limit
