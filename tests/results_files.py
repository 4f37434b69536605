"""Results as `polyvid evaluate` writes them, as far as tables and ablation reports read them."""

import json
from pathlib import Path


def results_file(name, benchmark, protocol, scores, seed=0, missing=0) -> dict:
    """`scores`: language → score → percent."""
    return {
        "name": name,
        "seed": seed,
        "protocol": {"benchmark": benchmark, "protocol": protocol},
        "environment": {"torch": "2.13.0", "device": "x86_64", "git_revision": "abc"},
        "counts": {"videos": 1000, "videos_with_features": 1000 - missing},
        "scores": {"all": {"text_to_video": scores}},
        "intervals_95": {language: {"R@1": [found["R@1"] - 1, found["R@1"] + 2]} for language, found in scores.items()},
    }


def write_results(folder: Path, *contents: dict) -> None:
    for index, content in enumerate(contents):
        path = folder / f"run{index}" / "results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
