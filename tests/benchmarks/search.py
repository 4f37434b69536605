"""Search at scale: `python tests/benchmarks/search.py --rows 10000 100000 --dim 256`. One table for each size.

Every way is asked the same queries on the same vectors (tests/clustered_vectors.py) in one run, against a plain matrix
product with top-k in torch and against faiss's flat index, both exact in float32. Each runs in a process of its own, so
that memory is its own: what it holds after the queries, of which "file" are pages mapped from disk that the system may
drop. `one` is queries per CPU second asked one by one, `batch` in batches of 100; `built` is CPU seconds too (the
engine's alone: not embedding, not writing the vectors). CPU time, because other work may share the machine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from clustered_vectors import clustered_vectors, describe  # noqa: E402

WAYS = {
    "torch float32 (baseline)": None,
    "faiss flat float32": None,
    "exact float32": ("float32", "exact", {}),
    "exact float16": ("float16", "exact", {}),
    "exact int8": ("int8", "exact", {}),
    "faiss float16 → float16": ("float16", "faiss", {"codes": "float16"}),
    "faiss int8 → float16": ("float16", "faiss", {"codes": "int8"}),
    "faiss int8 → int8": ("int8", "faiss", {"codes": "int8"}),
    "faiss binary → float16": ("float16", "faiss", {"codes": "binary"}),
    "lance int8 → float16": ("float16", "lance", {"codes": "int8"}),
    "lance binary → float16": ("float16", "lance", {"codes": "binary"}),
}


def status(name: str) -> float:
    """A line of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) / 1024


def measure(way: str, folder: Path, queries: int) -> dict:
    """Builds one index from the vectors in `folder`, opens it again as a user would, and asks."""
    from polyvid.modeling import VideoIndex

    if WAYS[way] and WAYS[way][1] == "lance":
        import lancedb  # noqa: F401
    elif "faiss" in way:
        import faiss
    texts = torch.from_numpy(np.load(folder / "queries.npy")[:queries])
    truth = np.load(folder / "truth.npy")[:queries]
    anonymous, mapped = status("RssAnon"), status("RssFile")
    built = 0.0
    if WAYS[way] is None:
        videos = np.load(folder / "videos.npy")
        if way.startswith("faiss"):
            index = faiss.IndexFlatIP(videos.shape[1])
            index.add(videos)
            del videos
            ask = lambda part: index.search(part.numpy(), 10)[1].tolist()  # noqa: E731
        else:
            ask = lambda part: (part @ torch.from_numpy(videos).T).topk(10).indices.tolist()  # noqa: E731
    else:
        path = folder / f"{way.replace(' ', '_')}.safetensors"
        if not path.exists():
            build(way, folder, path)
        built = json.loads(path.with_suffix(".json").read_text())["seconds"]
        opened = VideoIndex.load(path)
        ask = lambda part: [[int(hit["video_id"]) for hit in hits] for hits in opened.search(part, k=10)]  # noqa: E731
    ask(texts[:2])
    started = time.process_time()
    found = ask(texts[:100]) if queries <= 100 else [row for part in texts.split(100) for row in ask(part)]
    batched = queries / (time.process_time() - started)
    few = min(queries, 20)
    started = time.process_time()
    for text in texts[:few]:
        ask(text[None])
    one = few / (time.process_time() - started)
    recall = np.mean([len(set(row) & set(right)) / 10 for row, right in zip(found, truth.tolist(), strict=True)])
    used = {"anonymous": status("RssAnon") - anonymous, "file": status("RssFile") - mapped}
    return {"way": way, "recall@10": recall, "built": built, "one": one, "batch": batched} | used


def build(way: str, folder: Path, path: Path) -> None:
    from polyvid.modeling import VideoIndex

    storage, engine, options = WAYS[way]
    stored = folder / f"{storage}.safetensors"
    if not stored.exists():
        videos = torch.from_numpy(np.load(folder / "videos.npy", mmap_mode="r+"))
        VideoIndex(videos, range(len(videos)), storage=storage).save(stored)
    if engine == "lance":
        options = options | {"uri": str(folder / way.replace(" ", "_"))}
    started = time.process_time()
    VideoIndex.load(stored).with_engine(engine, **options).save(path)
    path.with_suffix(".json").write_text(json.dumps({"seconds": time.process_time() - started}))


def prepare(rows: int, dim: int, queries: int, folder: Path) -> str:
    """The vectors, and the ten nearest of each query in float32, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    about = folder / "about.txt"
    if not about.exists():
        videos, texts = clustered_vectors(rows, dim, queries)
        best = torch.cat([(part @ videos.T).topk(10).indices for part in texts.split(50)])
        for name, array in (("videos", videos), ("queries", texts), ("truth", best)):
            np.save(folder / f"{name}.npy", array.numpy())
        about.write_text(describe(videos, texts))
    return about.read_text()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--ways", help="Only those whose name holds this.", default="")
    parser.add_argument("--folder", type=Path, help="Kept if given, so that a run can be split.")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure[0], Path(arguments.measure[1]), arguments.queries)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        for rows in arguments.rows:
            folder = (arguments.folder or Path(temporary)) / f"{rows}x{arguments.dim}"
            about = prepare(rows, arguments.dim, arguments.queries, folder)
            print(f"\n{rows:,} × {arguments.dim}; {about}\n")
            print("| | recall@10 | built in s | memory MB | file MB | one q/s | batch q/s | ratio of batch |")
            print("|---|---:|---:|---:|---:|---:|---:|---:|")
            baseline = None
            for way in WAYS:
                if arguments.ways not in way and way != next(iter(WAYS)):
                    continue
                command = [sys.executable, __file__, "--measure", way, str(folder), "--queries", str(arguments.queries)]
                result = subprocess.run(command, capture_output=True, text=True)
                if result.returncode:
                    print(f"| {way} | failed: {result.stderr.strip().splitlines()[-1]} |")
                    continue
                row = json.loads(result.stdout.splitlines()[-1])
                baseline = baseline or row["batch"]
                memory = f"{row['anonymous']:.0f} | {row['file']:.0f}"
                speed = f"{row['one']:.0f} | {row['batch']:.0f} | {row['batch'] / baseline:.2f}"
                print(f"| {way} | {row['recall@10']:.3f} | {row['built']:.0f} | {memory} | {speed} |", flush=True)


if __name__ == "__main__":
    main()
