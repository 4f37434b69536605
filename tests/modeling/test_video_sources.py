"""Every form in which people have videos gives the same frames; what cannot be told apart is refused."""

import io
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from video_files import SIDE, numbered_frame, read_number, write_video

from polyvid.modeling.video_reading_mmp import Sampling, VideoError, View, cut_windows
from polyvid.modeling.video_sources_mmp import as_frames, frames_of, is_video

NUMBERS = View(Sampling(fps=10, window=1, stride=1))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "video.mp4", 20, fps=10)


def numbers(source, frame_rate=None):
    """The frame number at every tenth of a second."""
    return [read_number(window[0]) for _, window in cut_windows(frames_of(source, frame_rate), [NUMBERS])]


FRAMES = np.stack([numbered_frame(number) for number in range(20)])
TWENTY = list(range(20))


class Decoder:
    """What torchcodec's VideoDecoder offers, in its order of dimensions."""

    metadata = SimpleNamespace(num_frames=20)

    def __len__(self):
        return 20

    def get_frame_at(self, index):
        data = torch.from_numpy(FRAMES[index]).permute(2, 0, 1)
        return SimpleNamespace(data=data, pts_seconds=7.5 + index / 10, duration_seconds=0.1)


def test_files_bytes_and_decoders(file):
    sources = {
        "path": str(file),
        "pathlib": file,
        "bytes": file.read_bytes(),
        "open file": io.BytesIO(file.read_bytes()),
        "address": file.as_uri(),
        "undecoded bytes": {"bytes": file.read_bytes(), "path": None},
        "undecoded path": {"bytes": None, "path": str(file)},
        "torchcodec": Decoder(),
    }
    for name, source in sources.items():
        assert is_video(source), name
        assert numbers(source) == TWENTY, name
    with av.open(str(file)) as container:
        next(container.decode(video=0))  # it may be anywhere
        assert is_video(container) and numbers(container) == TWENTY
        assert numbers(container) == TWENTY  # and stays open


def test_a_value_of_a_video_column(file):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"video": [str(file)]}).cast_column("video", datasets.Video(decode=False))
    assert numbers(rows[0]["video"]) == TWENTY


def test_an_address_on_a_server(file, tmp_path):
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(file.parent))

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert numbers(f"{address}/video.mp4") == TWENTY
        with pytest.raises(VideoError, match="not a video FFmpeg can open"):
            numbers(f"{address}/none.mp4")
        server.shutdown()


@pytest.mark.parametrize("layout", ["last", "first"])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64", "torch uint8", "torch float16"])
def test_arrays_of_frames(layout, kind):
    frames = FRAMES if layout == "last" else FRAMES.transpose(0, 3, 1, 2)
    if "float" in kind:
        frames = frames / 255
    if kind.startswith("torch"):
        array = torch.from_numpy(np.ascontiguousarray(frames)).to(getattr(torch, kind.split()[1]))
    else:
        array = frames.astype(kind)
    assert is_video(array)
    assert as_frames(array).shape == (20, SIDE, SIDE, 3)
    assert np.abs(as_frames(array).astype(int) - FRAMES).max() <= 1
    assert numbers(array, frame_rate=10) == TWENTY
    assert numbers(array, frame_rate=20) == TWENTY[::2]  # they last one second then


def test_colours_are_not_mixed_up():
    red = np.zeros((2, 8, 6, 3), np.uint8)
    red[..., 0] = 200
    for array in (red, red.transpose(0, 3, 1, 2)):
        windows = cut_windows(frames_of(array, 2), [View(Sampling(None, 1, 1))])
        assert np.array_equal(np.stack([window[0] for _, window in windows]), red)


def test_lists_of_pictures():
    pictures = [Image.fromarray(frame) for frame in FRAMES]
    assert is_video(pictures) and numbers(pictures, 10) == TWENTY
    assert numbers(tuple(picture.convert("L") for picture in pictures), Fraction(10)) == TWENTY
    assert not is_video([FRAMES[0, :, :, 0]]) and not is_video([]) and not is_video([np.ones((3, 8))])


@pytest.mark.parametrize(
    "array, reason",
    [
        (np.zeros((4, 3, 9, 3), np.uint8), r"may be \(T, H, W, 3\) or \(T, 3, H, W\)"),
        (np.zeros((3, 3, 3, 3), np.uint8), "may be"),
        (np.zeros((4, 9, 9, 1), np.uint8), "no side of 3"),
        (np.zeros((4, 4, 9, 9), np.uint8), "no side of 3"),
        (np.zeros((3, 4, 9, 9), np.uint8), "no side of 3"),  # (3, T, H, W)
        (np.zeros((0, 9, 9, 3), np.uint8), "shape"),
        (np.zeros((9, 9, 3), np.uint8), "shape"),
        (np.zeros((4, 9, 9, 3), np.int64), "but they are int64"),
        (np.full((4, 9, 9, 3), 255.0), r"\[0, 1\], but they lie in \[255, 255\]"),
        (np.full((4, 9, 9, 3), -0.5), r"\[0, 1\]"),
        (np.full((4, 9, 9, 3), np.nan), r"\[0, 1\]"),
    ],
)
def test_an_array_that_is_not_certain_is_refused(array, reason):
    with pytest.raises(VideoError, match=reason):
        as_frames(array)


@pytest.mark.parametrize("rate, reason", [(None, "pass frame_rate="), (0, "above 0"), (-1, "above 0")])
def test_frames_without_a_rate_are_refused(rate, reason):
    with pytest.raises(VideoError, match=reason):
        numbers(FRAMES, rate)


@pytest.mark.parametrize("source", ["nowhere.mp4", b"", b"no video", "memory://nothing", {"bytes": b"x", "path": "a"}])
def test_what_is_no_video_is_refused(source):
    with pytest.raises(VideoError):
        numbers(source)
