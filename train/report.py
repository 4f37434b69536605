"""The demo's report: a Markdown file with the three arms beside the paper's Table 4, a bar chart, a contact sheet."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
import yaml
from matplotlib import font_manager

from mmp.dataset_scripts.schema import LANGUAGE_NAMES, LANGUAGES
from mmp.modeling import MMPModel, MMPProcessor

PUBLISHED = Path(__file__).parent.parent / "hub_cards" / "published.yaml"
ARMS = {"none": "no pre-training", "mp": "MP", "mmp": "MMP"}
COLORS = {"none": "#b0b0b0", "mp": "#6a9bd1", "mmp": "#1b7837"}
Scores = Mapping[str, Mapping[str, Mapping[str, float]]]  # arm → language → {"R@1": percent, ...}


def mean_of_other_languages(scores: Mapping[str, Mapping[str, float]], metric: str = "R@1") -> float:
    """Zero-shot score: the mean over all languages but English, which was fine-tuned on."""
    others = [scores[language][metric] for language in scores if language != "en"]
    return sum(others) / len(others)


def recall_table(scores: Scores, metric: str) -> str:
    """Markdown: one row per arm, one column per language, then the mean of the eight that were not fine-tuned on."""
    lines = [
        f"| {metric} | " + " | ".join(LANGUAGES) + " | mean without en |",
        "|---|" + "---:|" * (len(LANGUAGES) + 1),
    ]
    for arm, by_language in scores.items():
        cells = [f"{by_language[language][metric]:.1f}" for language in LANGUAGES]
        lines.append(f"| {ARMS[arm]} | {' | '.join(cells)} | {mean_of_other_languages(by_language, metric):.1f} |")
    return "\n".join(lines)


def published_table() -> str:
    """The rows of the paper's Table 4 that correspond to the three arms: XLM-R on VTT."""
    rows = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))["table_4"]["rows"]
    shown = {"no pre-training": "XLM-R", "MP": "XLM-R-MP", "MMP": "XLM-R-MMP"}
    lines = [
        "| R@1 | " + " | ".join(LANGUAGES) + " | mean without en |",
        "|---|" + "---:|" * (len(LANGUAGES) + 1),
    ]
    for arm, row in shown.items():
        values = [rows[row][language] for language in LANGUAGES]
        cells = " | ".join(f"{value:.1f}" for value in values)
        lines.append(f"| {arm} ({row}) | {cells} | {sum(values[1:]) / 8:.1f} |")
    return "\n".join(lines)


def plot_recall_by_language(scores: Scores, path: Path) -> None:
    """Bar chart of R@1: languages side by side, arms within a language."""
    figure, axes = plt.subplots(figsize=(10, 4))
    width = 0.8 / len(scores)
    for number, (arm, by_language) in enumerate(scores.items()):
        positions = [index + (number - (len(scores) - 1) / 2) * width for index in range(len(LANGUAGES))]
        heights = [by_language[language]["R@1"] for language in LANGUAGES]
        axes.bar(positions, heights, width, label=ARMS[arm], color=COLORS[arm])
    axes.set_xticks(range(len(LANGUAGES)), [LANGUAGE_NAMES[language] for language in LANGUAGES])
    axes.set_ylabel("R@1 (%)")
    axes.set_title("Text-to-video search after fine-tuning in English only")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_contact_sheet(
    model: MMPModel,
    processor: MMPProcessor,
    videos: Sequence[Mapping[str, Any]],
    features: Mapping[str, Any],
    video_id: str,
    path: Path,
) -> None:
    """One clip searched by its caption in nine languages: the top three clips, their cosine, the right one in green.

    After the paper's Fig. 7.
    """
    video_ids = [video["video_id"] for video in videos]
    wanted = videos[video_ids.index(video_id)]
    queries = {caption["language"]: caption["text"] for caption in wanted["captions"]}
    languages = [language for language in LANGUAGES if language in queries]
    text_embeds = model.encode_texts([queries[language] for language in languages], processor)
    video_embeds = model.encode_videos([features[name] for name in video_ids], processor, names=video_ids)
    similarity = F.normalize(text_embeds, dim=-1) @ F.normalize(video_embeds, dim=-1).T
    top = torch.topk(similarity, 3)

    with plt.rc_context({"font.family": _font_families()}):
        figure, grid = plt.subplots(
            len(languages), 4, figsize=(7.5, 1.55 * len(languages)), width_ratios=[1.9, 1, 1, 1]
        )
        for row, language, values, indices in zip(grid, languages, top.values, top.indices, strict=True):
            row[0].axis("off")
            row[0].text(0, 0.62, LANGUAGE_NAMES[language], fontsize=8, color="gray")
            row[0].text(0, 0.38, queries[language], fontsize=11, wrap=True)
            for axes, value, index in zip(row[1:], values, indices, strict=True):
                axes.imshow(_middle_frame(videos[index]["clip"]))
                axes.set_title(f"{value:.2f}", fontsize=8, pad=2)
                axes.set_xticks([])
                axes.set_yticks([])
                is_right = video_ids[index] == video_id
                for spine in axes.spines.values():
                    spine.set(color="#1b9e3a" if is_right else "#dddddd", linewidth=4 if is_right else 1)
        figure.tight_layout(pad=0.4)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def _middle_frame(clip: str):
    with av.open(clip) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return frames[len(frames) // 2]


def _font_families() -> list[str]:
    """Matplotlib's own font for Latin and Cyrillic; Chinese needs another one, which the `demo` extra brings."""
    families = ["DejaVu Sans"]
    spec = find_spec("cvttf_NotoSansCJK_Regular")
    if spec is not None:
        font = next(Path(spec.origin).parent.glob("*.otf"))
        font_manager.fontManager.addfont(font)
        families.append(font_manager.FontProperties(fname=font).get_name())
    return families
