"""Search results as HTML: clips that play, their names and cosines, and who finds a clip by which of its names."""

from html import escape
from pathlib import Path
from typing import Any

from search import LANGUAGES, MODELS, Ranking, rank_of

MODEL_NAMES = {"none": "No pre-training", "mp": "MP", "mmp": "MMP"}
MODEL_NOTES = {
    "none": "fine-tuned in English only",
    "mp": "pre-trained in English",
    "mmp": "pre-trained in nine languages",
}
CLIPS_SHOWN = 12
CLIPS_SHOWN_SIDE_BY_SIDE = 6


class Page:
    """Writes the parts of the results page.

    Args:
        clips: folder of `<video_id>.mp4`, which Gradio serves.
        names: video id → language → name.
        stills: clips of one frame; looped, they would be sought forever and never shown.
    """

    def __init__(self, clips: Path, names: dict[str, dict[str, str]], stills: set[str]):
        self.clips, self.names, self.stills = clips.resolve(), names, stills

    def one_model(self, model: str, ranking: Ranking, language: str, right: set[str], note: str) -> str:
        """The nearest clips in a grid, below a line that says what was searched."""
        return (
            f'<div class="status">{self._label(model)}<span>{note}</span>{self._found(right, ranking)}</div>'
            f'<div class="clips" data-model="{model}">{self._cards(ranking[:CLIPS_SHOWN], language, right)}</div>'
        )

    def side_by_side(self, rankings: dict[str, Ranking], language: str, right: set[str], note: str) -> str:
        """A row of clips for each model."""
        rows = [f'<div class="status"><span>{note}</span></div>']
        for model, ranking in rankings.items():
            cards = self._cards(ranking[:CLIPS_SHOWN_SIDE_BY_SIDE], language, right)
            rows.append(
                f'<section class="model-row"><div class="status">{self._label(model)}<span>{MODEL_NOTES[model]}</span>'
                f'{self._found(right, ranking)}</div><div class="clips" data-model="{model}">{cards}</div></section>'
            )
        return "".join(rows)

    def names_table(self, video_id: str, language: str, ranks: dict[str, dict[str, int]], model: str) -> str:
        """A clip's names in all languages and the rank at which each model finds it by them."""
        head = "".join(f'<th class="{_chosen(m, model)}">{MODEL_NAMES[m]}</th>' for m in MODELS)
        rows = []
        for code, by_model in ranks.items():
            cells = "".join(
                f'<td class="rank {_nearness(by_model[m])} {_chosen(m, model)}">{by_model[m]}</td>' for m in MODELS
            )
            rows.append(
                f'<tr><th scope="row"><small>{LANGUAGES[code]}</small>'
                f'<span lang="{code}">{escape(self.names[video_id][code])}</span></th>{cells}</tr>'
            )
        title = f'<span lang="{language}">{escape(self.names[video_id][language])}</span>'
        return (
            f'<section class="names"><div class="names-head">{self._video(video_id, title="")}'
            f"<div><h3>{title} in nine languages</h3><p>The rank, among {len(self.names)} clips, at which each model "
            "finds this clip by its name in each language. Lower is better.</p></div></div>"
            f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></section>"
        )

    def _cards(self, hits: Ranking, language: str, right: set[str]) -> str:
        return "".join(self._card(rank, hit, language, right) for rank, hit in enumerate(hits, start=1))

    def _card(self, rank: int, hit: dict, language: str, right: set[str]) -> str:
        names, rank_tag = self.names[hit["video_id"]], f'<span class="position">{rank}</span>'
        name = escape(names[language])
        english = "" if language == "en" else f'<small lang="en">{escape(names["en"])}</small>'
        is_right = hit["video_id"] in right
        tag = '<span class="tag">right clip</span>' if is_right else ""
        width = round(100 * max(0.0, min(1.0, hit["score"])))
        return (
            f'<figure class="clip{" right" if is_right else ""}" data-id="{hit["video_id"]}">'
            f'<div class="frame">{self._video(hit["video_id"], names["en"])}{rank_tag}{tag}</div>'
            f'<figcaption><strong lang="{language}">{name}</strong>{english}'
            f'<span class="score" title="cosine"><i style="width:{width}%"></i><b>{hit["score"]:.2f}</b></span>'
            "</figcaption></figure>"
        )

    def _video(self, video_id: str, title: str) -> str:
        source = escape(f"gradio_api/file={self.clips / video_id}.mp4")
        loop = "" if video_id in self.stills else " loop"
        return f'<video src="{source}" aria-label="{escape(title)}" autoplay muted playsinline{loop}></video>'

    def _label(self, model: str) -> str:
        return f'<b class="model {model}">{MODEL_NAMES[model]}</b>'

    def _found(self, right: set[str], ranking: Ranking) -> str:
        if not right:
            return ""
        rank = rank_of(right, ranking)
        return f'<span class="found {_nearness(rank)}">right clip at rank {rank}</span>'


def scores_table(scores: list[dict[str, Any]], clips: int) -> str:
    """How often each model, and each closed form, finds the clip of a name at rank 1; closed at first.

    Args:
        scores: rows of `model`, `method`, `en` and `others` (R@1 in percent), as `build.py` writes them.
        clips: number of clips that are searched.
    """
    if not scores:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{MODEL_NAMES[row["model"]]}</th><td>{escape(row["method"])}</td>'
        f'<td class="number">{row["en"]:.1f}</td><td class="number">{row["others"]:.1f}</td></tr>'
        for row in scores
    )
    return (
        '<details class="scores"><summary>How often is the right clip first?</summary><p>In percent of the names of '
        f"{clips} clips (chance {100 / clips:.1f}). The regressions are closed forms: no training, the same clips and "
        "captions. One split, one seed.</p><table><thead><tr><th>Pre-training</th><th>Method</th><th>English</th>"
        f"<th>Mean of the other eight</th></tr></thead><tbody>{rows}</tbody></table></details>"
    )


def notice(text: str) -> str:
    """A line in place of results."""
    return f'<div class="notice">{escape(text)}</div>'


def _nearness(rank: int) -> str:
    return "first" if rank == 1 else "near" if rank <= 10 else "far"


def _chosen(model: str, chosen: str) -> str:
    return "chosen" if model == chosen else ""
