"""How fast a device is, for each stage of the paper's run."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import official_keys
import torch
from shapes import SETTINGS, Shape, make_batch, make_model
from torch.utils.flop_counter import FlopCounterMode

from polyvid.modeling import MMPModel, MMPObjective, VideoIndex
from polyvid.modeling.frame_encoders_mmp import load_frame_encoder
from polyvid.train.loop.setup import parameter_groups
from polyvid.train.loop.step import contrastive_step

V100 = {"queries/s": "200 to 250", "videos/s": "250 to 300", "1,000 x 1,000": "6 s"}  # App. C
SEARCHED = 100  # queries in a batch of search
Row = tuple[str, str, str]  # what, the figure, a remark
Rates = dict[str, float]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The median, after a first call that does not count."""
    times = []
    for _ in range(repeats + 1):
        wait(device)
        started = time.perf_counter()
        function()
        wait(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def precision(device: torch.device) -> torch.dtype:
    """bfloat16 on GPUs. CPUs without units for it are many times slower with it."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def peak(shape: Shape, device: torch.device) -> float:
    """Operations a second of a large matrix product: what "share of the peak" refers to."""
    a = torch.randn(shape.product, shape.product, device=device, dtype=precision(device))
    return 2 * shape.product**3 / seconds(lambda: a @ a, device, shape.repeats)


def training(shape: Shape, device: torch.device, best: float, rates: Rates) -> Iterator[Row]:
    for name, (tokens, length) in SETTINGS.items():
        rows = shape.batch_size[name]
        model = make_model(shape, device).train()
        optimizer = torch.optim.Adam(parameter_groups(model, 2e-4), fused=True)
        objective = MMPObjective(raise_non_finite=False, gather=False)
        batch = make_batch(rows, tokens, length, shape.vocabulary, device)
        trained = [p for p in model.parameters() if p.requires_grad]

        def step(model=model, batch=batch, objective=objective, optimizer=optimizer, trained=trained) -> None:
            with autocast(device):
                contrastive_step(model, batch, objective)
            torch.nn.utils.clip_grad_norm_(trained, 0.2)
            optimizer.step()
            optimizer.zero_grad()

        with FlopCounterMode(display=False) as counter:
            step()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        taken = seconds(step, device, shape.repeats)
        share = counter.get_total_flops() / taken / best
        memory = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at the peak" if device.type == "cuda" else ""
        remark = f"batch {rows}, {tokens} tokens, {length} s; {share:.0%} of the peak{memory}"
        yield f"{name}, samples/s", f"{rows / taken:,.1f}", remark
        if name == "pre-training":
            rates["training"] = rows / taken


def embed(model: MMPModel, batch: dict[str, torch.Tensor], part: str, rows_at_a_time: int) -> torch.Tensor:
    names = ("input_ids", "attention_mask") if part == "text" else ("video_features", "video_mask")
    with torch.inference_mode(), autocast(batch["input_ids"].device):
        parts = zip(*(batch[name].split(rows_at_a_time) for name in names), strict=True)
        return torch.cat([getattr(model, f"get_{part}_features")(*part_).pooler_output for part_ in parts])


def encoding(shape: Shape, device: torch.device, best: float, rates: Rates) -> Iterator[Row]:
    model = make_model(shape, device).eval()
    batch = make_batch(shape.texts, *SETTINGS["fine-tuning"], shape.vocabulary, device, noise=False)
    queries = seconds(lambda: embed(model, batch, "text", 500), device, shape.repeats)
    videos = seconds(lambda: embed(model, batch, "video", 500), device, shape.repeats)
    yield "queries/s", f"{shape.texts / queries:,.0f}", f"without the tokenizer; paper, V100: {V100['queries/s']}"
    yield "videos/s", f"{shape.texts / videos:,.0f}", f"from features on the device; paper, V100: {V100['videos/s']}"

    def search() -> torch.Tensor:
        texts, clips = embed(model, batch, "text", 500), embed(model, batch, "video", 500)
        return (torch.nn.functional.normalize(texts) @ torch.nn.functional.normalize(clips).T).topk(1).indices

    whole = seconds(search, device, shape.repeats)
    remark = f"texts and features to ranks; paper, V100: {V100['1,000 x 1,000']}"
    yield f"{shape.texts:,} x {shape.texts:,}, seconds", f"{whole:.3g}", remark
    moments = make_batch(shape.texts, 3, 16, shape.vocabulary, device, noise=False)
    taken = seconds(lambda: embed(model, moments, "video", 500), device, shape.repeats)
    rates["embedding"] = shape.texts / taken
    yield "moments/s", f"{rates['embedding']:,.0f}", "up to 16 s each"


def extraction(shape: Shape, device: torch.device, best: float, rates: Rates) -> Iterator[Row]:
    """Random weights in the official form; they change no timing."""
    total = 0.0
    networks = {"R(2+1)D-34": (official_keys.r2plus1d_34_ig65m, "r2plus1d_34_clip8_ig65m.pth", 8)}
    networks["S3D"] = (official_keys.s3d_howto100m, "s3d_howto100m.pth", 30)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    with tempfile.TemporaryDirectory() as folder:
        for name, (keys, file, window) in networks.items():
            torch.save(official_keys.random_checkpoint(keys()), Path(folder) / file)
            encoder = load_frame_encoder(str(Path(folder) / file), window=window).to(device, dtype)
            side = shape.side if name == "S3D" else max(32, shape.side // 2)  # their input sizes are 224 and 112
            frames = torch.zeros(shape.windows, window, side, side, 3, dtype=torch.uint8, device=device)
            taken = seconds(lambda encoder=encoder, frames=frames: encoder(frames), device, shape.repeats)
            total += taken / shape.windows
            yield f"{name}, windows/s", f"{shape.windows / taken:,.1f}", f"windows of {window} frames, {side} pixels"
    rates["extraction"] = 1 / total
    yield "hours of video an hour, both networks", f"{1 / total:,.1f}", "without decoding, which runs on CPU cores"


def searching(shape: Shape, device: torch.device, best: float, rates: Rates) -> Iterator[Row]:
    """A product and top-k on the device, and `VideoIndex`, which searches on the CPU."""
    queries = torch.nn.functional.normalize(torch.randn(SEARCHED, shape.width, device=device))
    for rows in shape.rows:
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        vectors = torch.empty(rows, shape.width, device=device, dtype=dtype)
        for part in vectors.split(100_000):
            part.copy_(torch.nn.functional.normalize(torch.randn(part.shape, device=device)))

        def search(vectors=vectors) -> torch.Tensor:
            scores, best_rows = [], []
            for number, part in enumerate(vectors.split(1_000_000)):
                found = (queries.to(part.dtype) @ part.T).topk(10)
                scores.append(found.values)
                best_rows.append(found.indices + number * 1_000_000)
            return torch.cat(best_rows, 1).gather(1, torch.cat(scores, 1).topk(10).indices)

        taken = seconds(search, device, shape.repeats)
        remark = f"exact, product and top-k on the device, {dtype}".replace("torch.", "")
        yield f"search of {rows:,}, queries/s", f"{SEARCHED / taken:,.0f}", remark
        if rows == shape.rows[0]:
            index = VideoIndex(vectors.cpu().float(), range(rows), storage="float16")
            asked = queries.cpu()
            taken = seconds(lambda index=index, asked=asked: index.search(asked, k=10), torch.device("cpu"), 1)
            remark = "`VideoIndex`, exact, on the CPU: it has no search on GPUs"
            yield f"search of {rows:,}, queries/s", f"{SEARCHED / taken:,.0f}", remark
        del vectors


FIGURES = {
    "training": training,
    "encoding": encoding,
    "extraction": extraction,
    "search": searching,
}
