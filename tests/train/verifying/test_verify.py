"""`polyvid verify`: what is whole, what has no checksum, and every damage by name."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic_howto100m as synthetic
import torch
from peak_memory import PEAK_MEMORY
from safetensors.torch import save_file

from polyvid.dataset_scripts.build import build
from polyvid.dataset_scripts.building import shard_name, write_shard
from polyvid.dataset_scripts.features import FEATURES, features_to_row, rows_to_table
from polyvid.dataset_scripts.page_checksums import pages_have_checksums
from polyvid.modeling import VideoIndex
from polyvid.train.checksums import read_checksums, write_checksums
from polyvid.train.cli import main
from polyvid.train.verifying.folders import verify_path
from polyvid.train.verifying.formats import Finding
from tiny import tiny_model, tiny_processor

FLIPS = 60  # of each kind of file


def write_features(folder: Path) -> Path:
    """A shard of eight videos in two row groups."""
    generator = np.random.default_rng(0)
    rows = [features_to_row(f"video{n}", generator.normal(size=(5 + n, 512)).astype(np.float16)) for n in range(8)]
    path = folder / shard_name("train", 0, 1)
    path.parent.mkdir(exist_ok=True)
    write_shard([rows_to_table(rows[:5]), rows_to_table(rows[5:])], path, FEATURES.arrow_schema.remove_metadata())
    return path


def write_index(path: Path, engine: str = "exact") -> Path:
    names = [f"vidéo {n}" for n in range(40)]
    embeds = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    metadata = {name: {"year": 2000 + n % 7} for n, name in enumerate(names)}
    VideoIndex(embeds, names, metadata=metadata).with_engine(engine).save(path)
    return path


def write_checkpoint(folder: Path) -> Path:
    """What a training writes after a step, but with a smaller state."""
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    (folder / "recipe.yaml").write_text("name: tiny\n")
    torch.save({"state": torch.arange(999.0), "step": 3}, folder / "optimizer.pt")
    write_checksums(folder)
    return folder


def flipped(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]


def states(path: Path) -> dict[str, str]:
    found = list(verify_path(path))
    root = path if path.is_dir() else path.parent
    return {finding.path.relative_to(root).as_posix(): finding.state for finding in found}


def damaged(path: Path) -> list[Finding]:
    return [finding for finding in verify_path(path) if finding.state == "damaged"]


# --- what is whole -----------------------------------------------------------------------------------------------


def test_files_with_checksums_are_whole_and_the_others_say_so(tmp_path):
    write_features(tmp_path / "features")
    write_index(tmp_path / "videos.safetensors")
    write_checkpoint(tmp_path / "run")
    tiny_model().save_pretrained(tmp_path / "model")
    np.savez(tmp_path / "ranks.npz", en=np.arange(9))
    (tmp_path / "notes.txt").write_text("not ours")
    (tmp_path / ".work.incomplete").mkdir()
    (tmp_path / ".work.incomplete" / "half.parquet").write_text("PAR1")
    found = states(tmp_path)
    assert found["features/train-00000-of-00001.parquet"] == "whole"
    assert found["videos.safetensors"] == found["ranks.npz"] == "whole"
    assert {state for name, state in found.items() if name.startswith("run/")} == {"whole"}
    assert {"run/modeling_mmp.py", "run/optimizer.pt", "run/config.json"} <= found.keys()
    assert found["model/model.safetensors"] == found["model/config.json"] == "no checksum"
    assert not [name for name in found if "notes" in name or "half" in name or name.startswith("model/modeling")]


def test_a_built_dataset_is_whole_and_keeps_the_number_of_rows_it_was_built_with(tmp_path):
    synthetic.write_release(tmp_path / "release", 30, ("de",))
    build("multi_howto100m", ["de"], data_dir=tmp_path / "release", output_dir=tmp_path / "built", num_shards=2)
    assert states(tmp_path / "built")["de/train-00001-of-00002.parquet"] == "whole"
    assert not damaged(tmp_path / "built")
    shard = tmp_path / "built" / "de" / "train-00001-of-00002.parquet"
    table = pq.read_table(shard)
    write_shard([table.slice(1)], shard, table.schema)  # a whole file, with a row less
    [found] = damaged(tmp_path / "built")
    written = len(synthetic.numbers("de", 30))
    assert found.path == tmp_path / "built" / "de" and f"the rows {{'train': {written - 1}}} where" in found.note
    assert f"says {{'train': {written}}} were written" in found.note
    shard.unlink()
    assert damaged(tmp_path / "built")[0] == Finding(shard, "damaged", "it is missing")


def test_no_flipped_bit_of_a_footer_ends_the_interpreter(tmp_path):
    """pyarrow does that for some damaged entries of a column, when it is asked for them."""
    script = """
import sys
from pathlib import Path
from polyvid.train.verifying.folders import verify_path
path = Path(sys.argv[1])
content = path.read_bytes()
states = set()
for bit in range(8 * (len(content) - 8 - int.from_bytes(content[-8:-4], "little")), 8 * len(content)):
    data = bytearray(content)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    states |= {found.state for found in verify_path(path)}
print(*sorted(states))
"""
    table = pa.table({"a": ["x", "y"], "b": [1, 2]})
    pq.write_table(table, tmp_path / "a.parquet", write_page_checksum=True, store_schema=False)
    ended = subprocess.run([sys.executable, "-c", script, tmp_path / "a.parquet"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "damaged whole\n"), ended.stderr[-2000:]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_checksums_are_found_in_every_kind_of_page(tmp_path, version, compression):
    table = pa.table({"a": list(range(300)), "b": ["x" * 10, None, "y"] * 100, "c": [[1.0, None], [], None] * 100})
    for signed in (False, True):
        how = {"compression": compression, "data_page_version": version, "write_page_checksum": signed}
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=90, data_page_size=100, **how)
        assert pages_have_checksums(tmp_path / "a.parquet") is signed
        pq.write_table(table[:0], tmp_path / "empty.parquet", **how)
        assert pages_have_checksums(tmp_path / "empty.parquet") is signed


def test_parquet_of_others_without_checksums_is_only_read(tmp_path):
    pq.write_table(pa.table({"a": [1, 2], "b": [["x"], None]}), tmp_path / "a.parquet")
    [found] = verify_path(tmp_path)
    assert found.state == "no checksum" and "2 rows in 1 row groups; its pages have no checksums" in found.note
    pq.write_table(pa.table({"a": [1, 2], "b": [["x"], None]}), tmp_path / "a.parquet", write_page_checksum=True)
    assert states(tmp_path) == {"a.parquet": "whole"}


@pytest.mark.parametrize("engine", ["faiss", "lance"])
def test_an_index_of_another_engine(tmp_path, engine):
    pytest.importorskip({"faiss": "faiss", "lance": "lancedb"}[engine])
    options = {"uri": str(tmp_path / "tables")} if engine == "lance" else {"cells": 2}
    index = VideoIndex(torch.randn(40, 16, generator=torch.Generator().manual_seed(0)), map(str, range(40)))
    index.with_engine(engine, **options).save(tmp_path / "videos.safetensors")
    found = states(tmp_path)
    assert found.pop("videos.safetensors") == "whole"
    if engine == "lance":
        assert found == {"tables/videos.lance": "no checksum"}
        [data] = (tmp_path / "tables" / "videos.lance" / "data").iterdir()
        data.write_bytes(data.read_bytes()[:-100])
        [found] = damaged(tmp_path)
        assert found.path == tmp_path / "tables" / "videos.lance" and "LanceDB cannot read it" in found.note


def test_an_index_of_an_older_version_has_no_checksums(tmp_path, monkeypatch):
    import polyvid.modeling.index_file_mmp as index_file

    def save_without(tensors, path, metadata):
        about = json.loads(metadata[index_file.FORMAT])
        del about["digests"], about["digest"]
        save_file(tensors, path, {index_file.FORMAT: json.dumps(about)})

    monkeypatch.setattr(index_file, "save_file", save_without)
    assert states(write_index(tmp_path / "videos.safetensors")) == {"videos.safetensors": "no checksum"}


# --- what is damaged ---------------------------------------------------------------------------------------------


def test_the_damaged_part_is_named(tmp_path):
    shard = write_features(tmp_path)
    group = pq.read_metadata(shard).row_group(1)
    features = next(column for column in map(group.column, range(3)) if column.path_in_schema == "video_features")
    content = bytearray(shard.read_bytes())
    content[features.data_page_offset + features.total_compressed_size - 3] ^= 4
    shard.write_bytes(content)
    [found] = damaged(tmp_path)
    assert found.path == shard and found.note.startswith("row group 1, column 'video_features': ")
    assert "CRC" in found.note and "video_id" not in found.note

    index = write_index(tmp_path / "videos.safetensors")
    content = index.read_bytes()
    index.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    [found] = damaged(index)
    assert "'video_ids.utf8' does not match its checksum" in found.note or "does not match its checksum" in found.note

    checkpoint = write_checkpoint(tmp_path / "run")
    content = bytearray((checkpoint / "optimizer.pt").read_bytes())
    content[content.index(np.arange(999, dtype="<f4").tobytes()[400:440])] ^= 1
    (checkpoint / "optimizer.pt").write_bytes(content)
    (checkpoint / "config.json").unlink()
    missing, changed = damaged(checkpoint)
    assert missing == Finding(checkpoint / "config.json", "damaged", "it is missing")
    assert changed.path.name == "optimizer.pt" and "(record 'optimizer/data/0' does not match" in changed.note


def test_any_flipped_bit_of_a_checkpoint_is_found(tmp_path):
    folder = write_checkpoint(tmp_path / "run")
    assert not damaged(folder)
    chance = random.Random(0)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for _ in range(3):
            path.write_bytes(flipped(whole, chance))
            assert damaged(folder), path
            path.write_bytes(whole[: chance.randrange(len(whole))])
            assert damaged(folder), path
        path.write_bytes(whole)


def rows_of(path: Path) -> object:
    return pq.ParquetFile(path).read()


def hits_of(path: Path) -> object:
    index = VideoIndex.load(path)
    queries = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    return index.search(queries, k=50), list(index.video_ids)


def state_of(path: Path) -> object:
    loaded = torch.load(path, weights_only=True)
    return loaded.pop("state").tolist(), loaded


@pytest.mark.parametrize(
    ("name", "read"), [("shard.parquet", rows_of), ("videos.safetensors", hits_of), ("optimizer.pt", state_of)]
)
def test_a_flipped_bit_is_found_or_changes_nothing_that_is_read(tmp_path, name, read):
    """Formats have bytes that nobody reads: padding, statistics, the name of the program that wrote the file."""
    if name == "shard.parquet":
        path = write_features(tmp_path / "features").rename(tmp_path / name)
    elif name == "videos.safetensors":
        path = write_index(tmp_path / name)
    else:
        path = tmp_path / name
        torch.save({"state": torch.arange(999.0), "step": 3}, path)
    whole, expected, chance, found = path.read_bytes(), read(path), random.Random(1), 0
    for number in range(FLIPS):
        path = tmp_path / f"{number}-{name}"
        path.write_bytes(flipped(whole, chance))
        if damaged(path):
            found += 1
        else:
            try:
                assert read(path) == expected, number
            except RuntimeError as error:  # PyTorch also compares what its archives say of themselves twice
                assert "failed reading zip archive" in str(error)
        path.unlink()
    assert found > FLIPS / 2


def test_half_a_file_of_any_kind_is_damaged(tmp_path):
    whole = tmp_path / "whole"
    write_features(whole)
    write_index(whole / "videos.safetensors")
    tiny_model().save_pretrained(whole)
    torch.save({"a": torch.arange(99)}, whole / "optimizer.pt")
    np.savez(whole / "ranks.npz", en=np.arange(99))
    (whole / "failures.jsonl").write_text('{"video_id": "a"}\n{"video_id": "b"}\n')
    (whole / "recipe.yaml").write_text("name: 'tiny'\n")
    for path in sorted(whole.iterdir()):
        if path.suffix != ".py":
            half = tmp_path / path.name
            half.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
            assert [found.path for found in damaged(half)] == [half], path.name


def test_a_damaged_list_of_checksums_is_no_other_list(tmp_path):
    folder = write_checkpoint(tmp_path / "run")
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    (folder / "SHA256SUMS").write_text("\n".join([*lines[:2], "0123  x"]) + "\n")
    assert damaged(folder) == [
        Finding(
            folder / "SHA256SUMS",
            "damaged",
            f"{folder / 'SHA256SUMS'} is damaged: line 3 is not a checksum and a file name.",
        )
    ]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="coreutils")
def test_the_checksums_are_read_by_sha256sum_too(tmp_path):
    folder = write_checkpoint(tmp_path / "run")
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert read_checksums(folder).keys() == {path.name for path in folder.iterdir()} - {"SHA256SUMS"}


# --- the command -------------------------------------------------------------------------------------------------


def verify(capsys, *arguments: object) -> tuple[int, list[str], str]:
    """Exit code, lines, and the last line of the errors."""
    code = 0
    try:
        main(["verify", *map(str, arguments)])
    except SystemExit as exit_:
        code = exit_.code or 0
    out, err = capsys.readouterr()
    return code, out.splitlines(), (err.strip().splitlines() or [""])[-1]


def test_a_line_for_each_file_a_sum_and_the_exit_code(tmp_path, capsys):
    shard, index = write_features(tmp_path), write_index(tmp_path / "videos.safetensors")
    code, lines, _ = verify(capsys, tmp_path)
    assert code == 0 and len(lines) == 3
    assert lines[0] == f"whole        {shard}  8 rows in 2 row groups, checksums of all pages"
    assert lines[-1] == "2 files, 0.00 GB: 2 whole"
    index.write_bytes(index.read_bytes()[:-5])
    code, lines, error = verify(capsys, tmp_path)
    assert code == 1 and lines[1].startswith(f"damaged      {index}  ") and lines[-1].endswith(": 1 whole, 1 damaged")
    assert error == (
        f"error: 1 of 2 files are damaged or missing: {index}. Copy them again, or delete them and make them again."
    )


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")])
def test_what_cannot_be_verified_is_one_line(tmp_path, capsys, make):
    make(tmp_path / "thing")
    code, lines, error = verify(capsys, tmp_path / "thing")
    assert (code, lines) == (1, []) and error.startswith("error: ") and str(tmp_path / "thing") in error


def test_a_name_that_is_not_utf_8_is_one_line(tmp_path, capsys):
    """pyarrow cannot open it, and the command ended in a traceback."""
    name = os.path.join(os.fsencode(tmp_path), b"shard\xff.parquet")
    try:
        with open(name, "wb") as file:
            file.write(b"PAR1")
    except OSError:
        pytest.skip("this file system takes no such name")
    code, lines, error = verify(capsys, tmp_path)
    assert code == 1 and "shard\\xff.parquet  its name is not UTF-8" in lines[0]
    assert error.startswith("error: 1 of 1 files are damaged or missing: ")


def test_nothing_is_written_locked_or_unpickled(tmp_path, capsys):
    """Also where only reading is allowed, and a file could run a program when it is unpickled."""

    class Program:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "was run",))

    folder = tmp_path / "run"
    write_features(folder)
    torch.save(Program(), folder / "new.pt")
    torch.save(Program(), folder / "old.pt", _use_new_zipfile_serialization=False)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")}
    code, lines, _ = verify(capsys, folder)
    assert code == 0 and [line.split()[0] for line in lines[:-1]] == ["whole", "no", "whole"]
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")} == before


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    """256 MB in row groups of 16 MB."""
    block = np.random.default_rng(0).normal(size=(1024, 256)).astype(np.float16)
    tables = (rows_to_table([features_to_row(f"{group}-{n}", block) for n in range(32)]) for group in range(16))
    write_shard(tables, tmp_path / shard_name("train", 0, 1), FEATURES.arrow_schema.remove_metadata())
    program = f"""
import sys
from pathlib import Path
from polyvid.train.verifying.folders import verify_path
before = {PEAK_MEMORY}
[found] = verify_path(Path(sys.argv[1]))
print(found.state, {PEAK_MEMORY} - before)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    state, grown = done.stdout.split()
    assert state == "whole" and int(grown) < 128e6
