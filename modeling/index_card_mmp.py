"""The repository of a [`VideoIndex`] on the Hub: the name of its file, and its card."""

from __future__ import annotations

from typing import Any

from .provenance_mmp import shown_encoders

FILE = "videos.safetensors"


def index_card(index: Any, repo_id: str) -> str:
    """The README.md of the dataset repository `repo_id` that holds a [`VideoIndex`]."""
    kept = index.engine.vectors
    facts: dict[str, object] = {
        "rows (videos, or moments of videos)": len(index),
        "embed_dim": index.engine.embed_dim,
        "storage": f"in {index.engine.options}" if kept is None else kept.storage,
        "engine": index.engine.name,
        "made by": f"`{index.made_by}`" if index.made_by else "a model that was not saved",
        "video features of": shown_encoders(index.video_encoders) if index.video_encoders else "not recorded",
        "scores": _scores(index),
        "metadata": ", ".join(sorted(index.engine.kinds)) or "none",
    }
    table = "\n".join(f"| {name} | {fact} |" for name, fact in facts.items())
    return (
        "---\ntags:\n- text-to-video-retrieval\n- video-index\n---\n\n# Video index\n\n"
        "Embeddings and ids of videos, to search with words in any language of the model that made it.\n"
        f"The videos themselves are not included.\n\n| | |\n|---|---|\n{table}\n\n"
        f'```python\nfrom polyvid.modeling import VideoIndex\n\nindex = VideoIndex.load("{repo_id}")\n'
        'index.search("ein Hund spielt", k=10)\n```\n'
    )


def _scores(index: Any) -> str:
    """How hits are scored."""
    corrections = index.corrections
    parts = ["cosine"]
    if corrections.hubs is not None:
        gate = "gated" if corrections.hubs.gated else "without the gate"
        parts.append(f"corrected for hubs (QB-Norm, {gate}, β = {corrections.hubs.beta:g})")
    if corrections.offsets:
        parts.append(f"offsets of {' '.join(sorted(corrections.offsets))}")
    return ", ".join(parts) + (f", by {corrections.about}" if corrections.about else "")
