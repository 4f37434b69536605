"""Makes tests/modeling/golden again: `PYTHONPATH=tests python tests/modeling/make_golden.py`, in a checkout.

Only for a deliberate change of the format of saved models. Every other change must keep loading the model that is
there, with the same numbers: it stands for the models that people saved before.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from tiny import VIDEO_FEATURE_DIM, tiny_model, tiny_processor

GOLDEN = Path(__file__).parent / "golden"
TEXTS = ["der hund läuft", "a cat sleeps in the park", "狗 跑", "the woman"]
SECONDS = (3, 8, 1, 5)


def main() -> None:
    """Replaces the folder."""
    shutil.rmtree(GOLDEN, ignore_errors=True)
    model = tiny_model()
    processor = tiny_processor(feature_mean=[0.5] * VIDEO_FEATURE_DIM, feature_std=[2.0] * VIDEO_FEATURE_DIM)
    model.save_pretrained(GOLDEN)
    processor.save_pretrained(GOLDEN)
    generator = torch.Generator().manual_seed(2)
    videos = [torch.randn(seconds, VIDEO_FEATURE_DIM, generator=generator) for seconds in SECONDS]
    given = {f"video_{i}": video for i, video in enumerate(videos)}
    expected = {"texts": model.encode_texts(TEXTS, processor), "videos": model.encode_videos(videos, processor)}
    save_file(given | expected, GOLDEN / "embeddings.safetensors")
    (GOLDEN / "texts.json").write_text(json.dumps(TEXTS, ensure_ascii=False) + "\n", encoding="utf-8")
    for path in GOLDEN.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    main()
