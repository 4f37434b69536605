"""C2KD's setting from its pack to scores: built, trained by the shipped recipe, tested in nine languages."""

import json

from newer_benchmark_files import write_c2kd
from training_data import CONFIGS

from polyvid.dataset_scripts.build import build
from polyvid.train.scoring.evaluate import evaluate
from polyvid.train.train import main
from tiny import tiny_model, tiny_processor


def test_a_model_is_trained_and_tested_on_the_pack_alone(tmp_path):
    pack = write_c2kd(tmp_path / "pack", num_train=8, num_test=5)
    tiny_model().text_model.save_pretrained(tmp_path / "backbone")
    tiny_processor().tokenizer.save_pretrained(tmp_path / "backbone")
    build("c2kd", ["youcook2"], data_dir=pack, output_dir=tmp_path, option=["network=s3d", "check_counts=false"])
    changes = {
        "output_dir": tmp_path / "model",
        "model.backbone": tmp_path / "backbone",
        "model.output_layer": 3,
        "model.freeze_below": 2,
        "model.embed_dim": 16,
        "model.video_feature_dim": 8,
        "data.data_dir": pack,
        "data.features": tmp_path / "youcook2",
        "data.check_counts": False,
        "training.epochs": 1,
        "training.batch_size": 8,
        "training.num_workers": 0,
    }
    main(CONFIGS / "c2kd_youcook2.yaml", [f"{key}={value}" for key, value in changes.items()])
    evaluate(str(tmp_path / "model"), split="validation", check_counts=False, output=tmp_path / "scores", device="cpu")
    results = json.loads((tmp_path / "scores" / "results.json").read_text(encoding="utf-8"))
    assert results["counts"]["queries"] == dict.fromkeys("en de fr cs zh ru vi es ja".split(), 5)
    assert results["protocol"]["captions_by"]["en"] == ["human"]
    assert results["protocol"]["captions_by"]["ja"] == ["file:youcook_val_audio_multilingual.pkl"]
