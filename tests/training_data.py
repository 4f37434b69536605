"""Small data of the right format for every recipe of the paper, and a tiny backbone."""

import json
from pathlib import Path

import numpy as np
import synthetic_howto100m as synthetic
from benchmark_files import write_multi30k, write_small_msrvtt, write_vatex

from polyvid.dataset_scripts.build import build
from polyvid.dataset_scripts.building import shard_name, write_shard
from polyvid.dataset_scripts.features import FEATURES, features_to_row, rows_to_table
from polyvid.dataset_scripts.join import join
from polyvid.dataset_scripts.multi30k.regions import convert_regions
from polyvid.dataset_scripts.schema import LANGUAGES
from tiny import tiny_model, tiny_processor

CONFIGS = Path(__file__).parents[1] / "train" / "configs"
VIDEO_DIM, REGION_DIM, NUM_CLIPS = 8, 12, 24


def write_everything(folder: Path) -> Path:
    """Below `folder`: `backbone`, `joined-all`, `joined-howto100m`, and raw files and features of each benchmark."""
    tiny_model().text_model.save_pretrained(folder / "backbone")
    tiny_processor().tokenizer.save_pretrained(folder / "backbone")
    write_clips(folder)
    write_small_msrvtt(folder / "msrvtt")
    write_features(folder / "msrvtt_features", [f"video{n}" for n in range(12)])
    (folder / "translations").mkdir()
    for language in LANGUAGES[1:]:
        texts = {f"video{n}": [f"{language} {k} of {n}" for k in range(20)] for n in range(8)}
        (folder / "translations" / f"ref_captions_{language}.json").write_text(json.dumps(texts), encoding="utf-8")
    (folder / "vatex").mkdir()
    validation = write_vatex(folder / "vatex", 6, 4)
    write_features(folder / "vatex_features", [*(f"t{n:07d}abc_000010_000020" for n in range(6)), *validation])
    (folder / "multi30k").mkdir()
    write_multi30k(folder / "multi30k", {"train": 8, "val": 3, "test": 2})
    (folder / "regions").mkdir()
    generator = np.random.default_rng(0)
    for name in [*(f"train{n}" for n in range(8)), *(f"val{n}" for n in range(3))]:
        np.save(folder / "regions" / f"{name}.npy", generator.random((36, REGION_DIM), dtype=np.float32))
    convert_regions(folder / "regions", folder / "multi30k_features", dim=REGION_DIM)
    return folder


def write_clips(folder: Path) -> None:
    """Multi-HowTo100M and HowTo100M as the release has them, built and joined with features."""
    release = synthetic.write_release(folder / "raw", NUM_CLIPS)
    build("multi_howto100m", ["all", "howto100m"], data_dir=release, output_dir=folder, num_shards=2)
    features = synthetic.write_features(folder / "clip_features", range(NUM_CLIPS), 2, VIDEO_DIM)
    for config in ("all", "howto100m"):
        join(folder / config, features, folder / f"joined-{config}")


def write_features(folder: Path, video_ids: list[str]) -> None:
    generator = np.random.default_rng(0)
    rows = [features_to_row(video_id, generator.normal(size=(3, VIDEO_DIM))) for video_id in video_ids]
    write_shard([rows_to_table(rows)], folder / shard_name("train", 0, 1), FEATURES.arrow_schema.remove_metadata())


def overrides(folder: Path, recipe: str, output_dir: Path, **changes) -> list[str]:
    """What a shipped recipe needs to run on the data of `write_everything`; `training__epochs=2` changes more."""
    name, _, variant = recipe.partition("_")
    values = {
        "output_dir": output_dir,
        "model.backbone": folder / "backbone",
        "model.output_layer": 3,
        "model.freeze_below": 2,
        "model.embed_dim": 16,
        "model.video_feature_dim": VIDEO_DIM,
        "data.check_counts": False,
        "data.max_text_length": 24,
        "training.epochs": 1,
        "training.batch_size": 8,
        "training.num_workers": 0,
    }
    if name in ("mmp", "mp"):
        values["data.clips"] = folder / ("joined-all" if name == "mmp" else "joined-howto100m")
    else:
        dataset = {"vtt": "msrvtt", "vatex": "vatex", "m30k": "multi30k"}[name]
        values |= {"data.data_dir": folder / dataset, "data.features": folder / f"{dataset}_features"}
        values["model.init_from"] = "null"
    if name == "m30k":
        values["model.image_feature_dim"] = REGION_DIM
    if name == "vatex":
        values["data.config"] = "hashed-halves"
    if variant == "translated":
        values["data.translations"] = folder / "translations"
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    return [f"{key}={value}" for key, value in values.items()]
