"""A stage of texts alone: translations come closer, and the tower of videos stays as it is."""

import pytest
import torch
from emoji_features import write_features
from torch.nn import functional as F
from training_data import CONFIGS
from transformers import AutoModel, AutoProcessor

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.loop.setup import build_trainer
from polyvid.train.recipe import load_recipe, save_recipe
from tiny import VIDEO_FEATURE_DIM, tiny_model, tiny_processor

PAIRS = [("dog", "hund"), ("cat", "katze"), ("runs", "läuft"), ("the", "der"), ("a", "ein"), ("dog runs", "狗 跑")]
ENGLISH, TRANSLATED = (list(texts) for texts in zip(*PAIRS, strict=True))


@pytest.fixture
def folder(tmp_path):
    """A tiny backbone and a table of translations."""
    tiny_model().text_model.save_pretrained(tmp_path / "backbone")
    tiny_processor().tokenizer.save_pretrained(tmp_path / "backbone")
    (tmp_path / "texts.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in [("en", "de"), *PAIRS]), encoding="utf-8")
    return tmp_path


def recipe(folder, *more):
    changes = {
        "name": "texts",
        "output_dir": folder / "out",
        "model.backbone": folder / "backbone",
        "model.output_layer": 3,
        "model.freeze_below": 2,
        "model.embed_dim": 16,
        "model.video_feature_dim": VIDEO_FEATURE_DIM,
        "model.init_from": "null",
        "data.texts_only": "true",
        "data.parallel_texts": folder / "texts.tsv",
        "data.languages": "[en,de]",
        "data.pivots": "true",
        "data.validation_split": "null",
        "objective.terms": "[align]",
        "training.epochs": 12,
        "training.batch_size": 6,
        "training.learning_rate": 3e-3,
    }
    return load_recipe(CONFIGS / "finetune.yaml", [*(f"{key}={value}" for key, value in changes.items()), *more])


def agreement(model, processor):
    """The mean cosine of a sentence and its translation."""
    pair = (model.encode_texts(texts, processor) for texts in (ENGLISH, TRANSLATED))
    return F.cosine_similarity(*pair).mean().item()


@pytest.mark.parametrize("term", ["align", "teach"])
def test_translations_come_closer_and_the_videos_tower_stays(folder, term):
    trainer = build_trainer(recipe(folder, f"objective.terms=[{term}]"))
    before = agreement(trainer.model.eval(), trainer.processor)
    video_tower = {k: v.clone() for k, v in trainer.model.state_dict().items() if k.startswith("video_")}
    trainer.fit()
    model, processor = AutoModel.from_pretrained(folder / "out"), AutoProcessor.from_pretrained(folder / "out")
    assert agreement(model, processor) > before + 0.05
    assert all(torch.equal(model.state_dict()[name], value) for name, value in video_tower.items())
    assert next(model.video_projection.parameters()).requires_grad  # the next stage trains it


def test_the_teacher_is_the_start_or_another_model(folder):
    own = build_trainer(recipe(folder, "objective.terms=[teach]"))
    own.model.eval()
    expected = own.model.encode_texts(ENGLISH, own.processor)
    found = torch.stack([torch.from_numpy(own.batches.collator.teachers.english[text]) for text in ENGLISH])
    torch.testing.assert_close(found, expected)

    other = tiny_model(seed=5)
    other.save_pretrained(folder / "teacher")
    tiny_processor().save_pretrained(folder / "teacher")
    taught = build_trainer(recipe(folder, "objective.terms=[teach]", f"objective.teacher={folder / 'teacher'}"))
    found = torch.stack([torch.from_numpy(taught.batches.collator.teachers.english[text]) for text in ENGLISH])
    torch.testing.assert_close(found, other.encode_texts(ENGLISH, tiny_processor()))

    tiny_model(embed_dim=32).save_pretrained(folder / "teacher")
    with pytest.raises(PolyvidError, match="embeddings of 32 numbers, the model of 16"):
        build_trainer(recipe(folder, "objective.terms=[teach]", f"objective.teacher={folder / 'teacher'}"))


def test_a_warm_start_without_videos_sets_the_text_tower(folder):
    start = ["model.freeze_below=3", "model.start=warm"]
    warm = build_trainer(recipe(folder, *start)).model
    again = build_trainer(recipe(folder, *start)).model
    assert torch.equal(warm.text_projection.weight, again.text_projection.weight)
    rows = warm.text_projection.weight.detach().sum(0)  # its embeddings sum to 0, see `warm_start`
    assert rows.abs().max() < 1e-4
    with pytest.raises(PolyvidError, match="video_kernel_size draws its landmarks from clips"):
        build_trainer(recipe(folder, *start, "model.video_kernel_size=4"))


def test_what_is_missing_is_named_first(folder):
    with pytest.raises(FileNotFoundError, match="table of parallel texts"):
        build_trainer(recipe(folder, f"data.parallel_texts={folder / 'other.tsv'}"))
    with pytest.raises(FileNotFoundError, match="teacher"):
        build_trainer(recipe(folder, "objective.terms=[teach]", f"objective.teacher={folder / 'nothing'}"))


def test_a_recipe_of_texts_alone_reads_back(folder):
    saved = recipe(folder)
    save_recipe(saved, folder / "saved.yaml")
    assert load_recipe(folder / "saved.yaml") == saved


@pytest.mark.slow
def test_the_recipes_of_the_demo_align_and_then_pretrain(folder):
    write_features(folder / "features")
    tiny = {
        "model.backbone": folder / "backbone",
        "model.output_layer": 3,
        "model.freeze_below": 3,
        "model.embed_dim": 16,
        "model.video_kernel_size": 40,
        "data.features": folder / "features",
        "data.frozen_states": folder / "states",
        "training.epochs": 1,
    }
    changes = [f"{key}={value}" for key, value in tiny.items()]
    aligned, pretrained = folder / "aligned", folder / "pretrained"
    build_trainer(load_recipe("demo/mmp_align_warm", [*changes, f"output_dir={aligned}"])).fit()
    second = [*changes, f"output_dir={pretrained}", f"model.init_from={aligned}"]
    build_trainer(load_recipe("demo/mmp_pretrain_warm", second)).fit()
    models = [AutoModel.from_pretrained(path) for path in (aligned, pretrained)]
    for name in ("text_projection.weight", "video_kernel.landmarks"):
        one, other = (model.state_dict()[name] for model in models)
        assert torch.equal(one, other), name
