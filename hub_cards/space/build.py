"""Builds the demo app as a folder that runs without the package: a Space on the Hub, or `polyvid demo-app` here."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import av
import torch
import typer
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm
from transformers import AutoModel, AutoProcessor

from polyvid.dataset_scripts.building import load_builder, write_json
from polyvid.dataset_scripts.locking import locked
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.hub_cards.publish.files import MODEL_FILES
from polyvid.modeling import VideoIndex
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.frame_encoders_mmp import FrameEncoder, load_frame_encoder
from polyvid.modeling.video_reading_mmp import Sampling
from polyvid.train.data.videos import VideoFeatures
from polyvid.train.scoring.baselines import LABELS

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1]
DATASET = PACKAGE / "dataset_scripts" / "fluent_emoji_9"
APP_FILES = [
    HERE / name for name in ("app.py", "limits.py", "look.py", "render.py", "search.py", "watch.py", "style.css")
]
APP_FILES += [
    HERE / "README.md",
    HERE / "requirements.txt",
    DATASET / "LICENSE-animations",
    DATASET / "LICENSE-captions",
]
DECODING = PACKAGE / "modeling" / "video_reading_mmp.py"  # becomes decoding.py: the app runs without the package
DEMO = Path("outputs/demo")
MODELS = ("none", "mp", "mmp")  # folders of what `make demo` leaves
EXAMPLES_TRIED = 60


def build(output_dir: str | os.PathLike, demo_dir: str | os.PathLike = DEMO) -> None:
    """Build the demo app: code, three models, the test clips, their captions and embeddings.

    The folder appears complete or not at all, and replaces an earlier build. Weights are hard links where the file
    system allows it, else copies.

    Args:
        output_dir: new, empty, or an earlier build.
        demo_dir: the output of `make demo`: `none`, `mp`, `mmp` and `features`.

    Raises:
        FileNotFoundError: if `make demo` has not finished.
        PolyvidError: if something else is in `output_dir`, the features were made by several networks, or another
            process builds there.
    """
    output_dir, demo_dir = Path(output_dir), Path(demo_dir)
    needed = [*(f"{name}/model.safetensors" for name in MODELS), "features/extraction.json"]
    if missing := next((name for name in needed if not (demo_dir / name).is_file()), None):
        raise FileNotFoundError(f"{demo_dir} holds no finished demo ({missing} is missing): run `make demo` first.")
    if output_dir.exists() and any(output_dir.iterdir()) and not (output_dir / "clips.json").is_file():
        raise PolyvidError(f"{output_dir} is not empty and holds no demo app: choose another folder.")
    temporary = output_dir.with_name(f".{output_dir.name}.incomplete")
    with locked(output_dir, "polyvid demo-app"):
        shutil.rmtree(temporary, ignore_errors=True)  # left by a run that was killed
        try:
            temporary.mkdir(parents=True)
            _fill(temporary, demo_dir)
            shutil.rmtree(output_dir, ignore_errors=True)
            os.replace(temporary, output_dir)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def demo_app(
    demo: Annotated[Path, typer.Option(help="Folder that `make demo` filled.")] = DEMO,
    port: Annotated[int | None, typer.Option(help="Default: the first free one from 7860.")] = None,
) -> None:
    """Open the demo of `make demo` in a browser: search clips in nine languages with three models."""
    if missing := next((name for name in ("gradio", "py3langid") if find_spec(name) is None), None):
        raise ImportError(f"The demo app needs {missing}: pip install 'polyvid[space]'.")
    folder = demo / "space"
    if not _is_current(folder, demo):
        build(folder, demo)
    environment = os.environ | ({"GRADIO_SERVER_PORT": str(port)} if port else {})
    # A new process, not an import: the app runs as on the Hub, with the models' own code.
    os.execve(sys.executable, [sys.executable, str(folder / "app.py")], environment)


def _is_current(folder: Path, demo_dir: Path) -> bool:
    """Whether the folder was built after everything it is built from."""
    last = folder / "clips.json"  # the last file of a build
    sources = [
        Path(__file__),
        DECODING,
        *APP_FILES,
        *demo_dir.glob("features/*"),
        demo_dir / "results.json",
        *(demo_dir / name for name in MODELS),
    ]
    sources += [file for name in MODELS for pattern in MODEL_FILES for file in (demo_dir / name).glob(pattern)]
    return last.is_file() and all(file.stat().st_mtime < last.stat().st_mtime for file in sources if file.exists())


def _fill(folder: Path, demo_dir: Path) -> None:
    for file in APP_FILES:
        shutil.copy(file, folder)
    shutil.copy(DECODING, folder / "decoding.py")
    for name in MODELS:
        for pattern in MODEL_FILES:
            for file in (demo_dir / name).glob(pattern):
                _link(file, folder / "models" / name / file.name)
    _export_frame_encoder(demo_dir / "features", folder)
    videos = _test_clips(demo_dir / "features")
    (folder / "clips").mkdir()
    for video in tqdm(videos, desc="clips", unit=" clips"):
        clip = f"clips/{video['video_id']}.mp4"
        video["frames"] = _to_h264(DATASET / clip, folder / clip)
    video_ids = [video["video_id"] for video in videos]
    features = VideoFeatures(demo_dir / "features")
    embeds = {}
    for name in MODELS:
        model, processor = AutoModel.from_pretrained(demo_dir / name), AutoProcessor.from_pretrained(demo_dir / name)
        embeds[name] = model.encode_videos([features[video] for video in video_ids], processor, names=video_ids)
    save_file(embeds, folder / "video_embeds.safetensors")
    examples = _examples(videos, model, processor, VideoIndex(embeds["mmp"], video_ids))
    write_json(folder / "clips.json", {"examples": examples, "clips": videos, "scores": _scores(demo_dir)})


def _scores(demo_dir: Path) -> list[dict[str, Any]]:
    """R@1 of each model, and of the closed forms fitted on its data: `{"model", "method", "en", "others"}`.

    Empty if the demo has left no results.
    """
    file = demo_dir / "results.json"
    if not file.is_file():
        return []
    results = json.loads(file.read_text(encoding="utf-8"))
    found = {"trained": results["scores"]} | {LABELS[kind]: fitted for kind, fitted in results["baselines"].items()}
    rows: list[dict[str, Any]] = []
    for model in MODELS:
        for method, by_model in found.items():
            r1 = {language: scores["R@1"] for language, scores in by_model[model].items()}
            others = mean(value for language, value in r1.items() if language != "en")
            rows.append({"model": model, "method": method, "en": round(r1["en"], 1), "others": round(others, 1)})
    return rows


def _link(file: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file.resolve(), link)
    except OSError:  # another file system
        shutil.copy(file, link)


class _Encoder(nn.Module):
    """A `FrameEncoder`, preprocessing included, as a module that can be exported."""

    def __init__(self, encoder: FrameEncoder):
        super().__init__()
        self.encoder = encoder
        self.network = encoder.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as it is saved

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        without_inference_mode = FrameEncoder.__call__.__wrapped__  # type: ignore[attr-defined]
        return without_inference_mode(self.encoder, windows)


def _export_frame_encoder(features: Path, folder: Path) -> None:
    """Save the network that made the features as a program that needs only torch, and which frames it expects."""
    extraction = json.loads((features / "extraction.json").read_text(encoding="utf-8"))
    names = [described["name"] for described in extraction["encoders"]]
    if len(names) != 1 or extraction["per"] != "second":
        raise PolyvidError(
            f"{features} was made by {', '.join(names)}: the demo app supports one network, one vector a second."
        )
    sampling = Sampling(*(extraction["encoders"][0][key] for key in ("fps", "window", "stride")))
    encoder = load_frame_encoder(names[0], sampling)
    scaling = encoder.view.scaling
    if scaling is None:
        raise PolyvidError(f"{names[0]} has an image processor of its own, which cannot be exported to the demo app.")
    window = torch.zeros(1, sampling.window, scaling.crop, scaling.crop, 3, dtype=torch.uint8)
    torch.export.save(torch.export.export(_Encoder(encoder), (window,)), folder / "frame_encoder.pt2")
    write_json(
        folder / "frame_encoder.json", {"name": names[0], "sampling": asdict(sampling), "scaling": asdict(scaling)}
    )


def _test_clips(features: Path) -> list[dict[str, Any]]:
    """Of each test clip with features `{"video_id", "names": {language: text}, "keywords": {language: [text]}}`."""
    available = VideoFeatures(features)
    rows = list(load_builder("fluent_emoji_9")().as_streaming_dataset(split="test"))
    clips = []
    for row in (row for row in rows if row["video_id"] in available):
        texts = {(c["caption_id"], c["language"]): c["text"] for c in row["captions"]}
        names = {code: texts["name", code] for code in LANGUAGES}
        keywords = {code: texts["keywords", code].split(", ") for code in LANGUAGES if ("keywords", code) in texts}
        clips.append({"video_id": row["video_id"], "names": names, "keywords": keywords})
    if not clips:
        raise FileNotFoundError(f"{features} holds no test clip of Fluent-Emoji-9: run `make demo` first.")
    if len(clips) < len(rows):
        print(f"{len(rows) - len(clips)} of {len(rows)} test clips have no features in {features} and are left out.")
    return clips


def _to_h264(source: Path, target: Path) -> int:
    """The clip in the codec that every browser plays (Safari lacks AV1, the benchmark's); how many frames it has."""
    with av.open(str(source)) as reader, av.open(str(target), "w", options={"movflags": "+faststart"}) as writer:
        video = reader.streams.video[0]
        stream = writer.add_stream("libx264", rate=video.average_rate, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        frames = list(reader.decode(video))  # a dozen
        for frame in frames:
            frame.pict_type = 0  # let this encoder choose
            writer.mux(stream.encode(frame))
        writer.mux(stream.encode())
    return len(frames)


def _examples(videos: Sequence[dict], model: Any, processor: Any, index: VideoIndex) -> list[dict[str, str]]:
    """For each language the name of a test clip that MMP finds, a different clip each: `{"language", "text"}`.

    Chosen among some of the animated clips (more would take minutes): by the rank at which the clip is found, then by
    length.
    """
    animated = [video for video in videos if video["frames"] > 1]
    tried = animated[:: max(1, len(animated) // EXAMPLES_TRIED)]
    examples, used = [], set()
    for language in ("sw", *(code for code in LANGUAGES if code != "sw")):
        names = [video["names"][language] for video in tried]
        rankings = index.search(model.encode_texts(names, processor), len(index))
        found = []
        for video, name, ranking in zip(tried, names, rankings, strict=True):
            rank = [hit["video_id"] for hit in ranking].index(video["video_id"])
            found.append((video["video_id"] in used, rank, len(name), name, video["video_id"]))
        *_, name, video_id = min(found)
        used.add(video_id)
        examples.append({"language": language, "text": name})
    return examples
