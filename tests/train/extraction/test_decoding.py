"""Frames at the times of App. C: 30 ticks a second, windows from the start of every second."""

import gc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from video_files import SIDE, numbered_frame, read_number, resampled_by_ffmpeg, write_audio, write_video

from polyvid.modeling.video_reading_mmp import Sampling, Scaling, VideoError, View, read_windows, timed_frames
from polyvid.modeling.video_sources_mmp import frames_of

SHARED_VIDEOS = Path(__file__).parents[3].parent / "shared" / "data" / "videos"
NATIVE_SIZE = None


def window_numbers(path, window=8, fps=30, stride=30):
    """Each window as the list of the numbers burnt into its frames."""
    view = View(Sampling(fps, window, stride), NATIVE_SIZE)
    return [[read_number(frame) for frame in pixels] for _, pixels in read_windows(path, [view])]


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), 25, 60, 30, 10], ids=["29.97", "25", "60", "30", "10"])
@pytest.mark.parametrize("window", [8, 30])
def test_windows_hold_the_frames_ffmpeg_puts_there(tmp_path, rate, window):
    path = write_video(tmp_path / "video.mp4", num_frames=int(3.5 * rate), fps=rate)
    ticks = resampled_by_ffmpeg(path)
    assert window_numbers(path, window) == [ticks[30 * second : 30 * second + window] for second in range(3)]


def test_two_frames_a_second_for_image_models(tmp_path):
    path = write_video(tmp_path / "video.mp4", num_frames=105)
    ticks = resampled_by_ffmpeg(path, fps=2)
    assert window_numbers(path, window=2, fps=2, stride=2) == [ticks[0:2], ticks[2:4], ticks[4:6]]


def test_windows_of_a_variable_rate(tmp_path):
    # Half a second at 60 fps, one slide that stays for 1.2 s, then 12 fps.
    times = [Fraction(n, 60) for n in range(30)] + [Fraction(17, 10) + Fraction(n, 12) for n in range(20)]
    path = write_video(tmp_path / "video.mp4", num_frames=len(times), times=times)
    ticks = resampled_by_ffmpeg(path)
    assert window_numbers(path) == [ticks[0:8], ticks[30:38], ticks[60:68]]
    assert window_numbers(path)[1] == [29] * 8  # the slide: the last of the 60 fps frames


def test_a_stream_without_clock_or_rate_is_read_at_the_usual_rate(tmp_path):
    # A raw H.264 stream has neither timestamps nor a frame rate; FFmpeg guesses 25 a second.
    with av.open(str(write_video(tmp_path / "video.mp4", 50, fps=25))) as source:
        to_bytes = av.BitStreamFilterContext("h264_mp4toannexb", source.streams.video[0])
        packets = [p for packet in [*source.demux(video=0), None] for p in to_bytes.filter(packet)]
        (tmp_path / "video.h264").write_bytes(b"".join(bytes(packet) for packet in packets))
    with av.open(str(tmp_path / "video.h264")) as raw:
        assert raw.start_time is None and raw.duration is None
    numbers = window_numbers(tmp_path / "video.h264")
    assert [window[0] for window in numbers] == [0, 25]


def test_frames_of_a_clock_that_runs_backwards_are_left_out(tmp_path):
    # Motion JPEG has no order of its own: the frames come as they are stored, whatever their times.
    shown = [*range(20), *range(5), *range(20, 35)]  # in the middle, five frames that claim to be the first
    with av.open(str(tmp_path / "video.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=30)
        stream.width = stream.height = SIDE
        stream.pix_fmt, stream.time_base = "yuvj420p", Fraction(1, 1000)
        for position, number in enumerate(shown):
            frame = av.VideoFrame.from_ndarray(numbered_frame(position), format="rgb24")
            frame.pts, frame.time_base = position, Fraction(1, 30)
            for packet in stream.encode(frame):
                packet.time_base, packet.dts, packet.pts = Fraction(1, 1000), position, 100 + number * 1000 // 30
                container.mux(packet)
    assert window_numbers(tmp_path / "video.mkv", window=30) == [[*range(20), *range(25, 35)]]


@pytest.mark.parametrize("suffix, codec", [(".mkv", "libx264"), (".webm", "libvpx-vp9"), (".mp4", "libsvtav1")])
def test_a_container_clock_of_milliseconds_loses_no_second(tmp_path, suffix, codec):
    path = write_video(tmp_path / f"video{suffix}", num_frames=48, fps=24, codec=codec)
    assert len(window_numbers(path)) == 2  # 48 frames at 24 fps, though the clock may end at 1.999


def test_one_feature_per_whole_second_and_one_for_less(tmp_path):
    assert len(window_numbers(write_video(tmp_path / "a.mp4", 89))) == 2
    assert len(window_numbers(write_video(tmp_path / "b.mp4", 90))) == 3
    assert window_numbers(write_video(tmp_path / "c.mp4", 3)) == [[0, 1, 2, 2, 2, 2, 2, 2]]  # the last frame repeats


def test_a_window_longer_than_a_second_reaches_into_the_next(tmp_path):
    path = write_video(tmp_path / "video.mp4", 60)
    first, second = window_numbers(path, window=32)
    assert first == list(range(32))
    assert second == [*range(30, 60), 59, 59]


def test_every_stored_frame(tmp_path):
    times = [Fraction(n * n, 100) for n in range(12)]
    path = write_video(tmp_path / "video.mp4", 12, times=times)
    assert window_numbers(path, window=1, fps=None, stride=1) == [[n] for n in range(12)]


def test_two_views_of_one_decoding(tmp_path):
    path = write_video(tmp_path / "video.mp4", 60)
    views = [View(Sampling(30, 8, 30), Scaling(128, 112)), View(Sampling(30, 30, 30), Scaling(224, 224))]
    windows = list(read_windows(path, views))
    assert [(index, pixels.shape) for index, pixels in windows] == [
        (0, (8, 112, 112, 3)),
        (1, (30, 224, 224, 3)),
        (0, (8, 112, 112, 3)),
        (1, (30, 224, 224, 3)),
    ]
    assert [read_number(frame) for frame in windows[3][1]] == list(range(30, 60))


def test_scaling_agrees_with_the_published_processor(tmp_path):
    """FFmpeg scales in place of the transformers processor next to the weights: same size, same crop, same picture."""
    from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

    from polyvid.modeling.modeling_r2plus1d import PREPROCESSING

    smooth = np.linspace(0, 255, 320)[None, :, None] * np.linspace(0.2, 1, 240)[:, None, None] * np.array([1, 0.5, 0.8])
    with av.open(str(tmp_path / "video.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=30)  # lossless
        stream.width, stream.height, stream.pix_fmt = 320, 240, "bgr0"
        frame = av.VideoFrame.from_ndarray(smooth.astype(np.uint8), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    [(_, window)] = read_windows(tmp_path / "video.mkv", [View(Sampling(None, 1, 1), Scaling(128, 112))])
    processor = VideoMAEImageProcessorPil(**PREPROCESSING | {"do_normalize": False, "do_rescale": False})
    expected = processor([smooth.astype(np.uint8)])["pixel_values"][0][0].transpose(1, 2, 0)
    assert np.abs(window[0].astype(float) - expected).max() <= 3


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_rotated_phone_video_is_decoded_upright(tmp_path, rotation):
    """The file says how far to turn its pictures; here they were encoded turned the other way."""
    path = write_video(tmp_path / "video.mp4", 30, rotation=rotation)
    _set_display_rotation(path, rotation)
    assert window_numbers(path) == [list(range(8))]


def _set_display_rotation(path, degrees):
    """Writes the display matrix into the `tkhd` box: 36 bytes of 16.16 and 2.30 fixed-point numbers."""
    a, b = {90: (0, -1), 180: (-1, 0), 270: (0, 1)}[degrees]
    matrix = [a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = b"".join(n.to_bytes(4, "big", signed=True) for n in matrix)
    path.write_bytes(data)


def test_broken_videos_say_what_is_wrong(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", 300).read_bytes()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video, whatever its name says")
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # the index stands at the end: lost
    write_audio(tmp_path / "sound.mp4")
    cut = write_video(tmp_path / "cut.ts", 300).read_bytes()
    (tmp_path / "noise.ts").write_bytes(cut[:188] + np.random.default_rng(0).bytes(len(cut)))
    expected = {
        "missing.mp4": "no such file",
        "empty.mp4": "empty",
        "text.mp4": "not a video FFmpeg can open",
        "cut.mp4": "not a video FFmpeg can open",
        "sound.mp4": r"no video stream \(audio only\)",
        "noise.ts": "no video stream|no frame|corrupt|not a video",
    }
    for name, reason in expected.items():
        with pytest.raises(VideoError, match=reason):
            list(read_windows(tmp_path / name, [View(Sampling())]))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("upload.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{folder}/private.ts\n#EXT-X-ENDLIST\n"),
        ("upload.mp4", "ffconcat version 1.0\nfile private.ts\n"),
    ],
)
def test_a_file_that_names_other_files_shows_none_of_them(tmp_path, name, content):
    """FFmpeg reads what a playlist names, whatever the playlist is called."""
    write_video(tmp_path / "private.ts", 10)
    (tmp_path / name).write_text(content.format(folder=tmp_path))
    for source in (tmp_path / name, (tmp_path / name).read_bytes(), open(tmp_path / name, "rb")):
        with pytest.raises(VideoError, match="a playlist, or another file|not a video FFmpeg can open"):
            list(frames_of(source))


@pytest.mark.parametrize("name", ["concat:private.mp4|private.mp4", "12:30.mp4", "http:127.0.0.1.mp4"])
def test_a_name_with_a_colon_is_a_name_and_no_protocol(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "private.mp4", 10)
    write_video(tmp_path / "new.mp4", 20).rename(tmp_path / name)
    assert len(list(timed_frames(Path(name)))) == 20


def test_half_a_download_is_no_short_video(tmp_path):
    path = tmp_path / "video.mp4"
    with av.open(str(write_video(tmp_path / "whole.mp4", 300))) as source:
        with av.open(str(path), "w", options={"movflags": "faststart"}) as target:
            copy = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = copy
                    target.mux(packet)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"truncated: \d\.\d s of 10\.0 s"):
        list(read_windows(path, [View(Sampling())]))


@pytest.mark.parametrize(
    "suffix, codec", [(".mkv", "libx264"), (".webm", "libvpx-vp9"), (".flv", "libx264"), (".ts", "libx264")]
)
def test_half_a_file_of_any_container_is_no_short_video(tmp_path, suffix, codec):
    """Matroska says how long a stream is in a tag, Flash says it of the file as a whole; a transport stream never."""
    whole = write_video(tmp_path / f"whole{suffix}", 300, codec=codec)
    assert len(window_numbers(whole)) == 10
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    if suffix == ".ts":
        assert 0 < len(window_numbers(cut)) < 10
    else:
        with pytest.raises(VideoError, match=r"truncated: \d\.\d s of 10\.\d s could be decoded"):
            window_numbers(cut)


def test_sound_may_last_longer_than_the_pictures(tmp_path):
    """Where only the length of the whole file is known, a long sound track does not make the video a broken one."""
    video, both = write_video(tmp_path / "video.flv", 90), tmp_path / "both.flv"
    with (
        av.open(str(video)) as pictures,
        av.open(str(write_audio(tmp_path / "sound.m4a", seconds=8.0))) as sound,
        av.open(str(both), "w") as target,
    ):
        sources = [pictures.streams.video[0], sound.streams.audio[0]]
        copies = {source: target.add_stream_from_template(source) for source in sources}
        for source in sources:
            for packet in source.container.demux(source):
                if packet.dts is not None:
                    packet.stream = copies[source]
                    target.mux(packet)
    with av.open(str(both)) as container:
        assert container.streams.video[0].duration is None and container.duration > 7_900_000
    assert len(window_numbers(both)) == 3
    both.write_bytes(both.read_bytes()[: video.stat().st_size + 500])  # but one that breaks off does
    with pytest.raises(VideoError, match="truncated"):
        window_numbers(both)


@pytest.mark.parametrize("size", [(16_000, 1), (2, 4_000)])
def test_a_picture_that_is_next_to_a_line_is_refused_at_once(tmp_path, size):
    with av.open(str(tmp_path / "line.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height = size
        stream.pix_fmt = "bgr0"
        frame = av.VideoFrame.from_ndarray(np.zeros((*size[::-1], 3), np.uint8), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(VideoError, match=f"pictures of {size[0]} x {size[1]} pixels: one side is too long"):
        list(read_windows(tmp_path / "line.mkv", [View(Sampling(), Scaling(128, 112))]))


def test_a_corrupt_packet_costs_its_frames_only(tmp_path):
    path = write_video(tmp_path / "video.ts", 300)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 188 * 188
    data[middle + 4 : middle + 188] = bytes(184)
    path.write_bytes(data)
    windows = window_numbers(path)
    assert len(windows) in (9, 10)
    assert windows[0] == list(range(8)) and windows[-1][0] >= 240


def test_memory_does_not_grow_with_the_video(tmp_path):
    path = write_video(tmp_path / "video.mp4", 600)
    most = 0
    for _ in read_windows(path, [View(Sampling(30, 8, 30))]):
        most = max(most, sum(type(thing) is av.VideoFrame for thing in gc.get_objects()))
    assert most <= 20  # those the decoder holds for reordering, never a second's worth


@pytest.mark.skipif(not SHARED_VIDEOS.exists(), reason="the real videos are not here")
@pytest.mark.parametrize("name, seconds", [("v_GGSY1Qvo990.mp4", 18), ("v_ZNVhz7ctTq0.mp4", 14)])
def test_real_videos(name, seconds):
    view = View(Sampling(30, 8, 30), Scaling(128, 112))
    windows = [pixels for _, pixels in read_windows(SHARED_VIDEOS / name, [view])]
    assert len(windows) == seconds
    assert all(window.shape == (8, 112, 112, 3) and window.std() > 5 for window in windows)


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"window": 0}, {"stride": 0}])
def test_impossible_sampling(wrong):
    with pytest.raises(ValueError, match=f"Sampling.{next(iter(wrong))} must be at least 1"):
        Sampling(**wrong)
