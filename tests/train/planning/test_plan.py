"""`polyvid plan`: each number is its formula, whose values one can check by hand."""

import re

import pytest
import torch
from typer.testing import CliRunner

from polyvid.modeling import VideoIndex
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.cli import app, main
from polyvid.train.planning.stages import STAGES, changed, load_quantities, plan

RATES = [
    "build=50",
    "build_size=0.25",
    "join=100",
    "extraction=60",
    "decoding=5",
    "training=500",
    "embedding=1000",
    "faiss=20",
]
MACHINE = {"devices": 8, "cores": 16, "price": 2.5, "storage_price": 23}


def values(changes=(), **machine) -> dict[str, float | None]:
    stages = plan(changed(load_quantities("gpu"), [*RATES, *changes]), MACHINE | machine)
    return {estimate.line.name: estimate.value for estimates in stages.values() for estimate in estimates}


def test_the_plan_of_the_paper_by_hand():
    found = values()
    assert found["json_disk"] == 692_045_656 * 110
    assert found["build_hours"] == pytest.approx(692_045_656 * 110 / 50e6 / 3600)
    assert found["build_disk"] == 692_045_656 * 110 / 4
    assert found["video_hours"] == pytest.approx(134_215, abs=1)  # Miech et al. (2019) count 134,472
    assert found["network_hours"] == pytest.approx(134_215 / 60 / 8, rel=1e-4)
    assert found["decoding_hours"] == pytest.approx(134_215 / 5 / 16, rel=1e-4)
    assert found["extraction_hours"] == found["decoding_hours"]  # these GPUs wait for frames
    assert found["extraction_price"] == found["extraction_hours"] * 8 * 2.5
    assert found["features_disk"] == 1_238_911 * 390 * 1024 * 2
    assert found["join_hours"] == pytest.approx(989_520_436_224 / 100e6 / 3600, rel=1e-3)
    assert found["join_disk"] == found["features_disk"] + found["build_disk"]
    assert found["steps"] == 16 * (1_238_911 // 64)
    assert found["training_hours"] == pytest.approx(16 * 1_238_911 / 500 / 8 / 3600, rel=1e-4)
    assert found["embedding_hours"] == pytest.approx(138_429_877 / 8000 / 3600)
    assert found["vectors_float32"] == 138_429_877 * (4096 + 12)
    assert found["vectors_float16"] == 138_429_877 * (2048 + 12)
    assert found["vectors_int8"] == 138_429_877 * (1024 + 16)
    assert found["cells"] == 23_531
    assert found["faiss_memory_float16"] == 138_429_877 * (2048 + 8)
    assert found["faiss_memory_binary"] == 138_429_877 * (128 + 16)
    assert found["lance_price"] == pytest.approx(138_429_877 * 3072 / 1e12 * 23)
    assert found["device_price"] == pytest.approx(
        2.5 * 8 * (found["extraction_hours"] + found["training_hours"] + found["embedding_hours"])
    )


def test_the_totals_of_table_8_are_those_of_the_paper():
    others = [69317890, 69399097, 68911940, 69117193, 68939488, 68898800, 68887868, 70143503]
    quantities = load_quantities("gpu")
    assert quantities["all_subtitles"].value == quantities["subtitles"].value + sum(others)


@pytest.mark.parametrize(("rows", "cells", "seconds"), [(100_000, 632, 2), (1_000_000, 2000, 33)])
def test_the_formula_of_faiss_gives_both_times_that_were_measured(rows, cells, seconds):
    """tests/benchmarks/RESULTS.md, Search: int8 codes of 256 numbers, one core."""
    found = values([f"subtitles={rows}", "embed_dim=256", f"faiss={load_quantities('cpu')['faiss'].value}"], cores=1)
    assert found["cells"] == cells
    assert found["faiss_hours"] * 3600 == pytest.approx(seconds, rel=0.1)


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_the_size_of_vectors_is_that_of_an_index(storage, tmp_path):
    rows, width = 3000, 256
    spans = [[(second, second + 16) for second in range(rows // 2)]] * 2
    VideoIndex(torch.randn(rows, width), ["a", "b"], spans=spans, storage=storage).save(
        tmp_path / "moments.safetensors"
    )
    found = values([f"subtitles={rows}", f"embed_dim={width}"])[f"vectors_{storage}"]
    assert found == pytest.approx((tmp_path / "moments.safetensors").stat().st_size, rel=0.01)


def test_what_nobody_has_measured_stays_open_and_says_which_rate_is_missing():
    stages = plan(load_quantities("gpu"), MACHINE | {"price": None})
    found = {estimate.line.name: estimate for estimates in stages.values() for estimate in estimates}
    assert found["extraction_hours"].value is None and found["extraction_hours"].missing == ("extraction",)
    assert set(found["device_price"].missing) == {"extraction", "training", "embedding", "price"}
    assert found["features_disk"].value  # needs no rate


def test_every_rate_has_a_source_or_is_open():
    for device in ("gpu", "cpu"):
        for name, quantity in load_quantities(device).items():
            assert quantity.unit and bool(quantity.source) == (quantity.value is not None), name


def test_the_command_prints_every_formula_next_to_its_value():
    done = CliRunner().invoke(app, ["plan", "--rate", "extraction=60", "--price", "2.5", "--size", "videos=3600"])
    assert done.exit_code == 0
    for lines in STAGES.values():
        for line in lines:
            assert re.search(rf"^  {line.name} .* {re.escape(line.formula)}$", done.stdout, re.MULTILINE), line.name
    assert re.search(r"video_hours +390 h ", done.stdout)
    assert re.search(r"network_hours +49 min ", done.stdout)  # 390 / 60 / 8 = 0.8125 h
    assert re.search(r"lance_price +no --storage-price", done.stdout)
    assert "--rate training=… --rate embedding=…" in done.stdout


def test_extraction_takes_as_long_as_the_slower_of_networks_and_decoding():
    assert values(cores=1000)["extraction_hours"] == values()["network_hours"] < values()["extraction_hours"]


def test_without_gpus_the_cores_compute():
    done = CliRunner().invoke(app, ["plan", "--gpus", "0", "--cores", "4"])
    assert re.search(r"devices +4   CPU cores", done.stdout) and "not measured" not in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("extracton=4", "There is no size or rate 'extracton'; did you mean extraction?"),
        ("extraction=fast", "extraction=fast: write extraction=NUMBER, with a number above 0"),
        ("extraction=0", "extraction=0: write extraction=NUMBER"),
        ("extraction", "extraction: write extraction=NUMBER"),
        ("videos=inf", "videos=inf: write videos=NUMBER"),
    ],
)
def test_a_wrong_rate_is_refused_in_one_line(change, message, capsys):
    with pytest.raises(PolyvidError, match=re.escape(message)):
        changed(load_quantities("gpu"), [change])
    with pytest.raises(SystemExit) as stopped:
        main(["plan", "--rate", change])
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith("error: ")
