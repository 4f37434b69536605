"""A LanceDB table whose files were damaged: one line, or an answer, and never the end of the interpreter."""

import random
import shutil

import pytest
import torch

from polyvid.modeling import VideoIndex
from polyvid.modeling.errors_mmp import PolyvidError

LanceEngine = pytest.importorskip("polyvid.train.search.lance_engine").LanceEngine
VIDEOS, WIDTH = 200, 16


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lance")
    index = VideoIndex(torch.randn(VIDEOS, WIDTH, generator=torch.Generator().manual_seed(0)), map(str, range(VIDEOS)))
    index.with_engine("lance", uri=str(folder / "tables")).save(folder / "videos.safetensors")
    return folder


def test_a_table_that_ends_early_is_one_line(whole, tmp_path):
    tables = shutil.copytree(whole / "tables", tmp_path / "tables")
    [data] = (tables / "videos.lance" / "data").iterdir()
    data.write_bytes(data.read_bytes()[:-50])
    with pytest.raises(PolyvidError, match="Table 'videos' in .*tables cannot be read .*: is it damaged"):
        LanceEngine(str(tables), "videos", "int8", 1).nearest(torch.ones(1, WIDTH), 3, [])


def test_any_damage_of_a_table_is_one_line_or_an_answer(whole, tmp_path):
    refused = 0
    for number in range(12):
        chance = random.Random(number)
        tables = shutil.copytree(whole / "tables", tmp_path / str(number))
        path = chance.choice(sorted(path for path in tables.rglob("*") if path.is_file() and path.suffix != ".txn"))
        content = bytearray(path.read_bytes())
        at = chance.randrange(len(content))
        content[at : at + 16] = chance.randbytes(len(content[at : at + 16]))
        path.write_bytes(content)
        try:
            hits = LanceEngine(str(tables), "videos", "int8", 1).nearest(torch.ones(1, WIDTH), 5, [])
            assert len(hits[0]) <= 5
        except PolyvidError as error:
            assert "\n" not in str(error)
            refused += 1
    print(f"{refused} of 12 refused")
