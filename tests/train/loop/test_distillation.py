"""C2KD in a run: English teachers, once before the first step, and students in other languages."""

import numpy as np
import pytest
import torch
from training_data import CONFIGS, VIDEO_DIM, overrides, write_everything

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.loop.setup import build_trainer
from polyvid.train.recipe import load_recipe
from tiny import tiny_model, tiny_processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_everything(folder)
    for seed, width in ((0, 16), (1, 24)):  # two teachers of different widths
        tiny_model(seed=seed, embed_dim=width, video_feature_dim=VIDEO_DIM).save_pretrained(folder / f"teacher{seed}")
        tiny_processor(feature_size=VIDEO_DIM).save_pretrained(folder / f"teacher{seed}")
    return folder


def recipe(folder, output, *teachers, **more):
    changes = {
        "data__languages": "[en,de,sw]",
        "data__pivots": "false",
        "data__validation_split": "null",
        "objective__terms": "[inter,distill]",
        "objective__distill_teachers": f"[{','.join(str(folder / name) for name in teachers)}]",
    }
    return load_recipe(CONFIGS / "vtt_translated.yaml", overrides(folder, "vtt_translated", output, **(changes | more)))


def test_each_row_carries_what_teachers_make_of_its_english_and_its_video(folder, tmp_path):
    trainer = build_trainer(recipe(folder, tmp_path / "out", "teacher0", "teacher1"))
    rows = [trainer.batches.rows[index] for index in range(40)]
    assert {row["language"] for row in rows} == {"en", "de", "sw"}
    batch = trainer.batches.collator(rows)
    for number, width in enumerate((16, 24)):
        teacher = tiny_model(seed=number, embed_dim=width, video_feature_dim=VIDEO_DIM)
        processor = tiny_processor(feature_size=VIDEO_DIM)
        texts = teacher.encode_texts([row["english_text"] for row in rows], processor)
        videos = teacher.encode_videos([row["video_features"] for row in rows], processor)
        for name, expected in (("teacher_text_embeds", texts), ("teacher_video_embeds", videos)):
            torch.testing.assert_close(batch[name][:, number, :width], expected)
            assert not batch[name][:, number, width:].any()
    swahili = next(row for row in rows if row["language"] == "sw")
    assert swahili["english_text"] != swahili["text"]


def test_a_run_learns_from_its_teachers(folder, tmp_path):
    trainer = build_trainer(recipe(folder, tmp_path / "out", "teacher0", training__epochs=3))
    trainer.fit()
    losses = [entry["distill"] for entry in trainer.progress.history]
    assert losses[-1] < losses[0] and np.isfinite(losses).all()


def test_a_teacher_of_other_features_is_refused(folder, tmp_path):
    tiny_model(video_feature_dim=5).save_pretrained(tmp_path / "teacher")
    tiny_processor(feature_size=5).save_pretrained(tmp_path / "teacher")
    with pytest.raises(PolyvidError, match=f"takes features of width 5, .* has {VIDEO_DIM}"):
        build_trainer(recipe(folder, tmp_path / "out", tmp_path / "teacher"))
    with pytest.raises(FileNotFoundError, match="teacher"):
        build_trainer(recipe(folder, tmp_path / "out", "missing"))
