"""`model.start=zero_shot`: before its first step, the model finds what the dual encoder finds; then it learns."""

import json
import shutil

import numpy as np
import pytest
import torch
from dual_encoder_models import CONFIGS, save_dual_encoder
from torch.nn.functional import normalize
from training_data import CONFIGS as RECIPES
from transformers import AutoModel, AutoProcessor, AutoTokenizer

from polyvid.dataset_scripts.building import shard_name, write_shard
from polyvid.dataset_scripts.features import FEATURES, features_to_row, rows_to_table
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.dual_encoders.models import embed_texts
from polyvid.train.loop.dry_run import describe
from polyvid.train.loop.setup import build_trainer
from polyvid.train.loop.step_log import read_steps
from polyvid.train.recipe import load_recipe
from polyvid.train.recipe_files import RecipeError
from tiny import WORDS, tiny_model, tiny_processor

FAMILIES = [family for family in CONFIGS if family not in ("xclip", "videoprism")]  # with single images
WIDTH = {"siglip": 16, "siglip2": 16}
TEXTS = [f"the {word} in park" for word in WORDS[2:10]]


def some_slow(names, fast):
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with a tiny random model of each family."""
    made = {family: tmp_path_factory.mktemp("models") / family for family in FAMILIES}
    for family, folder in made.items():
        save_dual_encoder(family, folder)
    return made


def write_data(folder, family):
    """Eight captioned videos by their names alone, and random features as wide as the joint space of the family."""
    folder.mkdir()
    rows = ["file_name,split,en", *(f"{n}.mp4,train,{text}" for n, text in enumerate(TEXTS))]
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    generator = np.random.default_rng(0)
    features = {str(n): generator.normal(size=(1 + n % 3, WIDTH.get(family, 12))) for n in range(8)}
    rows = [features_to_row(name, array) for name, array in features.items()]
    shard = folder / "features" / shard_name("train", 0, 1)
    write_shard([rows_to_table(rows)], shard, FEATURES.arrow_schema.remove_metadata())
    return {name: array.astype(np.float16).astype(np.float32) for name, array in features.items()}


def recipe(folder, model, *more, name="dual"):
    values = {
        "output_dir": folder / "out",
        "model.backbone": model,
        "data.dataset": folder / "data",
        "data.features": folder / "data" / "features",
        "data.languages": "[en]",
        "data.validation_split": "null",
        "model.pooler_num_heads": 2,
        "training.patience": "null",
        "training.batch_size": 8,
        "training.epochs": 3,
        "training.learning_rate": 1e-2,
    }
    return load_recipe(RECIPES / f"{name}.yaml", [*(f"{key}={value}" for key, value in values.items()), *more])


@torch.no_grad()
def zero_shot(folder, texts, videos):
    """With transformers alone: unit embeddings of the texts, and the mean of the unit features of each video."""
    embeds = embed_texts(AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder), texts)
    return normalize(embeds, dim=-1), torch.stack([normalize(torch.tensor(video), dim=-1).mean(0) for video in videos])


@pytest.mark.parametrize("family", some_slow(FAMILIES, fast=("siglip",)))
def test_step_0_is_the_dual_encoder_and_steps_move_it(folders, tmp_path, family):
    features = list(write_data(tmp_path / "data", family).values())
    trainer = build_trainer(recipe(tmp_path, folders[family]))
    texts, videos = zero_shot(folders[family], TEXTS, features)
    scores = texts @ normalize(videos, dim=-1).T
    before = embeddings(trainer.model, trainer.processor, features)
    torch.testing.assert_close(before[0], texts, atol=1e-5, rtol=0)
    torch.testing.assert_close(before[0] @ before[1].T, scores, atol=1e-5, rtol=0)

    trainer.fit()
    losses = [line["loss"] for line in read_steps(tmp_path / "out" / "steps.jsonl")]
    logits = scores.double() / trainer.recipe.objective.temperature
    pairs = logits.diagonal()
    sums = logits.exp().sum(1) + logits.exp().sum(0) - pairs.exp()  # Eq. 2 counts each pair once
    assert losses[0] == pytest.approx(float((sums.log() - pairs).mean()), abs=1e-5) and losses[-1] < losses[0]

    model = AutoModel.from_pretrained(tmp_path / "out")
    after = embeddings(model, AutoProcessor.from_pretrained(tmp_path / "out"), features)
    for found, trained, first in zip(
        after, embeddings(trainer.model, trainer.processor, features), before, strict=True
    ):
        torch.testing.assert_close(found, trained)
        assert not torch.allclose(found, first, atol=1e-3)


def take_steps(trainer):
    trainer.model.train()
    for epoch in range(2):
        for batch in trainer.batches.read(epoch, 0):
            trainer.training_step(batch)


def embeddings(model, processor, features):
    """Unit vectors of the texts and of the videos."""
    found = model.encode_texts(TEXTS, processor), model.encode_videos(features, processor)
    return [normalize(embeds, dim=-1) for embeds in found]


def test_locked_texts_stay_those_of_the_dual_encoder(folders, tmp_path):
    features = list(write_data(tmp_path / "data", "siglip").values())
    trainer = build_trainer(recipe(tmp_path, folders["siglip"], "model.lock_text=true"))
    before = embeddings(trainer.model, trainer.processor, features)
    take_steps(trainer)
    after = embeddings(trainer.model, trainer.processor, features)
    torch.testing.assert_close(after[0], before[0], atol=1e-6, rtol=0)
    assert not torch.allclose(after[1], before[1], atol=1e-3)


def test_layers_of_the_text_tower_can_be_trained(folders, tmp_path):
    write_data(tmp_path / "data", "clip")
    trainer = build_trainer(recipe(tmp_path, folders["clip"], "model.freeze_below=1"))
    layers = trainer.model.text_model.encoder.layers
    before = [layer.mlp.fc1.weight.clone() for layer in layers]
    take_steps(trainer)
    assert [torch.equal(layer.mlp.fc1.weight, old) for layer, old in zip(layers, before, strict=True)] == [True, False]


def test_a_dry_run_says_what_it_takes(folders, tmp_path, capsys):
    write_data(tmp_path / "data", "clip")
    describe(build_trainer(recipe(tmp_path, folders["clip"])))
    shown = capsys.readouterr().out
    assert "output_layer: 2" in shown and "embed_dim: 12" in shown
    assert " s a step, about " in shown and "GiB at the peak" in shown


def test_what_cannot_start_as_a_dual_encoder_is_refused(folders, tmp_path):
    write_data(tmp_path / "data", "clip")
    for more, key in (
        ("model.init_from=outputs/mmp", "model.init_from=null"),
        ("data.feature_power=0.5", "data.feature_power=1"),
        ("data.normalize_features=true", "data.normalize_features=false"),
    ):
        with pytest.raises(RecipeError, match=f"model.start=zero_shot begins as model.backbone alone: set {key}"):
            recipe(tmp_path, folders["clip"], more)
    with pytest.raises(PolyvidError, match="whose embed_dim is 12, but the recipe sets model.embed_dim=16"):
        build_trainer(recipe(tmp_path, folders["clip"], "model.embed_dim=16"))
    tiny_model().text_model.save_pretrained(tmp_path / "xlmr")
    with pytest.raises(PolyvidError, match="is a xlm-roberta, but model.start=zero_shot needs a dual encoder"):
        build_trainer(recipe(tmp_path, tmp_path / "xlmr"))
    trainer = build_trainer(recipe(tmp_path, folders["clip"]))
    trainer.model.save_pretrained(tmp_path / "out")
    trainer.processor.save_pretrained(tmp_path / "out")
    with pytest.raises(PolyvidError, match="began as a dual encoder, for which there is no closed form"):
        build_trainer(recipe(tmp_path, "x", f"model.init_from={tmp_path / 'out'}", "model.start=warm"))


def test_features_of_another_network_are_refused(folders, tmp_path):
    write_data(tmp_path / "data", "clip")
    records = [{"id": "dinov2", "weights": "1234", "columns": 12, "per": "second"}]
    settings = {"format": 1, "encoders": records, "per": "second"}
    (tmp_path / "data" / "features" / "extraction.json").write_text(json.dumps(settings))
    with pytest.raises(PolyvidError, match="holds features of dinov2"):
        build_trainer(recipe(tmp_path, folders["clip"]))


def test_a_text_that_ends_otherwise_than_the_dual_encoder_expects_is_noticed(folders, tmp_path):
    write_data(tmp_path / "data", "clip")
    shutil.copytree(folders["clip"], tmp_path / "clip")
    without_end = json.loads((tmp_path / "clip" / "tokenizer.json").read_text())
    without_end["post_processor"] = None
    (tmp_path / "clip" / "tokenizer.json").write_text(json.dumps(without_end))
    with pytest.raises(PolyvidError, match="its texts do not end as expected"):
        build_trainer(recipe(tmp_path, tmp_path / "clip"))


@pytest.mark.parametrize(
    "family", some_slow(["modernbert", "xlm-roberta", "bert", "siglip", "altclip"], ("modernbert",))
)
def test_any_text_tower_goes_with_any_features(folders, tmp_path, family):
    """XLM-R is also multilingual-e5 and BGE-M3, ModernBERT is mmBERT, BERT is LaBSE."""
    write_data(tmp_path / "data", "clip")  # 12 columns
    tower = folders.get(family)
    if tower is None:
        tower = tmp_path / family
        tiny_model(family).text_model.save_pretrained(tower)
        tiny_processor().tokenizer.save_pretrained(tower)
    noise = ["objective.mask_ratio=0"] if family in FAMILIES else []  # without a mask token
    trainer = build_trainer(recipe(tmp_path, tower, *noise, name="towers"))
    config = trainer.model.config
    width = {"siglip": 16, "altclip": 12}.get(family, 32)
    assert (config.video_feature_dim, config.embed_dim) == (12, width)
    assert config.output_layer == config.freeze_below == config.text_config.num_hidden_layers
    trainer.fit()
    AutoModel.from_pretrained(tmp_path / "out")
