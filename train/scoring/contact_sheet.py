"""Qualitative results in the style of the paper's Fig. 3 and 7: search for a video by its caption in each language.

For each query the sheet shows the top three videos with their cosine; the correct one has a green frame. Written as PNG
and as an HTML page with the images embedded.
"""

import base64
import html
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import av
import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
import typer
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.image import imsave

from polyvid.dataset_scripts.building import atomic_path
from polyvid.dataset_scripts.locking import locked
from polyvid.dataset_scripts.schema import in_table_order, language_name
from polyvid.modeling import MMPModel, MMPProcessor
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.paths_mmp import VIDEO_SUFFIXES, check_local_path
from polyvid.modeling.pinned_files_mmp import FONT, pinned_file
from polyvid.modeling.video_reading_mmp import VideoError, open_container
from polyvid.train.loading import load_model
from polyvid.train.scoring.benchmark import open_benchmark
from polyvid.train.scoring.ranking import ranks_of_targets

GREEN = "#1b9e3a"
SUFFIXES = (".mp4", *VIDEO_SUFFIXES, ".webp", ".jpg", ".jpeg", ".png")  # .mp4 first where a video is there twice

STYLE = f"""\
body {{ font: 16px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222 }}
td {{ padding: .3rem .5rem; vertical-align: middle }}
td small {{ display: block; color: #666 }}
figure {{ margin: 0; width: 9rem }}
figure img {{ width: 100%; border: 1px solid #ddd; display: block }}
figure.right img {{ border: 4px solid {GREEN} }}
figcaption {{ font-size: .8rem; color: #666; overflow-wrap: anywhere }}
"""


@dataclass(frozen=True)
class Query:
    """A caption of the target video and what it found.

    Attributes:
        found: (index of the video, cosine), best first.
        rank: of the target, from 1; ties count against it.
    """

    language: str
    text: str
    found: list[tuple[int, float]]
    rank: int


def search_by_own_captions(
    model: MMPModel,
    processor: MMPProcessor,
    videos: Sequence[Mapping[str, Any]],
    features: Mapping[str, Any],
    wanted: Sequence[str],
    top: int = 3,
) -> dict[str, list[Query]]:
    """Search all videos with the first caption of each target in each language. Returns video id → its queries.

    Raises:
        PolyvidError: if a target is not among the videos or has no features.
    """
    shown = [video for video in videos if video["video_id"] in features]
    by_id = {video["video_id"]: video for video in shown}
    for video_id in wanted:
        if video_id not in by_id:
            raise PolyvidError(
                f"There is no video {video_id!r} with features in this split (one is {next(iter(by_id))!r})."
            )
    queries = [
        (video_id, language, next(c["text"] for c in by_id[video_id]["captions"] if c["language"] == language))
        for video_id in wanted
        for language in in_table_order(caption["language"] for caption in by_id[video_id]["captions"])
    ]
    index_of = {video["video_id"]: index for index, video in enumerate(videos)}
    names = list(by_id)
    video_embeds = model.encode_videos([features[name] for name in names], processor, names=names)
    text_embeds = model.encode_texts([text for *_, text in queries], processor)
    similarity = F.normalize(text_embeds, dim=-1) @ F.normalize(video_embeds, dim=-1).T
    best = torch.topk(similarity, min(top, len(names)))
    targets = torch.tensor([names.index(video_id) for video_id, *_ in queries])
    ranks = ranks_of_targets(text_embeds, video_embeds, targets).tolist()
    sheets: dict[str, list[Query]] = {video_id: [] for video_id in wanted}
    for query, rank, values, indices in zip(queries, ranks, best.values, best.indices, strict=True):
        video_id, language, text = query
        found = [(index_of[names[i]], value) for i, value in zip(indices.tolist(), values.tolist(), strict=True)]
        sheets[video_id].append(Query(language, text, found, rank))
    return sheets


def plot_contact_sheet(
    model: MMPModel,
    processor: MMPProcessor,
    videos: Sequence[Mapping[str, Any]],
    features: Mapping[str, Any],
    video_id: str,
    path: Path,
) -> None:
    """Write the sheet of one video as PNG. Each row of `videos` gives its clip under `clip`."""
    queries = search_by_own_captions(model, processor, videos, features, [video_id])[video_id]
    write_png(queries, videos, video_id, path)


def write_png(queries: Sequence[Query], videos: Sequence[Mapping[str, Any]], video_id: str, path: Path) -> None:
    """One row per query: its language and text, then the videos found."""
    columns = max(len(query.found) for query in queries)
    families = _font_families(queries)
    with matplotlib.rc_context({"font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # said already
        figure = Figure(figsize=(2.85 + 1.55 * columns, 1.55 * len(queries)))
        grid = figure.subplots(len(queries), columns + 1, width_ratios=[1.9] + [1] * columns, squeeze=False)
        for row, query in zip(grid, queries, strict=True):
            row[0].axis("off")
            row[0].text(0, 0.62, _heading(query, videos, video_id), fontsize=8, color="gray")
            row[0].text(0, 0.38, query.text, fontsize=11, wrap=True)
            for axes, (index, cosine) in zip(row[1:], query.found, strict=True):
                axes.imshow(middle_frame(videos[index]["clip"]))
                axes.set_title(f"{cosine:.2f}", fontsize=8, pad=2)
                axes.set_xticks([])
                axes.set_yticks([])
                is_right = videos[index]["video_id"] == video_id
                for spine in axes.spines.values():
                    spine.set(color=GREEN if is_right else "#dddddd", linewidth=4 if is_right else 1)
        figure.tight_layout(pad=0.4)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=110, format="png")


def write_html(
    sheets: Mapping[str, Sequence[Query]], videos: Sequence[Mapping[str, Any]], title: str, path: Path
) -> None:
    """Write all sheets to one self-contained page; the frames are embedded."""
    frames: dict[int, str] = {}
    parts = [
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        f"<style>{STYLE}</style></head><body>\n<h1>{html.escape(title)}</h1>",
        "<p>Each video is searched by its own caption in each language. The number is the cosine; the right video is "
        "framed in green, or its rank is given.</p>",
    ]
    for video_id, queries in sheets.items():
        parts.append(f"<h2>{html.escape(video_id)}</h2>\n<table>")
        for query in queries:
            cells = []
            for index, cosine in query.found:
                name = videos[index]["video_id"]
                if index not in frames:
                    frames[index] = _as_data_url(middle_frame(videos[index]["clip"]))
                is_right = ' class="right"' if name == video_id else ""
                cells.append(
                    f'<td><figure{is_right}><img src="{frames[index]}" alt="{html.escape(name)}">'
                    f"<figcaption>{cosine:.2f} {html.escape(name)}</figcaption></figure></td>"
                )
            heading = _heading(query, videos, video_id)
            text = f'<span lang="{query.language}">{html.escape(query.text)}</span>'
            parts.append(f"<tr><td><small>{heading}</small>{text}</td>{''.join(cells)}</tr>")
        parts.append("</table>")
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join([*parts, "</body></html>\n"]), encoding="utf-8")


def _heading(query: Query, videos: Sequence[Mapping[str, Any]], video_id: str) -> str:
    """The language, and the rank of the target if it is not among the videos shown."""
    is_shown = any(videos[index]["video_id"] == video_id for index, _ in query.found)
    return language_name(query.language) + ("" if is_shown else f": rank {query.rank}")


def contact_sheet(
    video: Annotated[list[str], typer.Argument(help="Ids of the videos to search for.")],
    model: Annotated[str, typer.Option(help="Folder or Hub id of an MMP model.")],
    output: Annotated[Path, typer.Option(help="Folder for index.html and <video id>.png.")],
    clips: Annotated[
        Path | None, typer.Option(help="Folder with <video id>.mp4, .jpg, ... Default: where the dataset says.")
    ] = None,
    benchmark: Annotated[str | None, typer.Option(help="Default: what the model was trained on.")] = None,
    features: Annotated[Path | None, typer.Option(help="Folder of feature shards of the benchmark's videos.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with the benchmark's official files.")] = None,
    translations: Annotated[
        Path | None, typer.Option(help="Translated captions. Default: the recipe's, if they exist.")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="Default: the paper's protocol.")] = None,
    split: Annotated[str, typer.Option(help="The split whose videos are searched.")] = "test",
    caption_kind: Annotated[
        list[str] | None, typer.Option(help="Only captions with this caption id, such as name.")
    ] = None,
    check_counts: Annotated[bool, typer.Option(help="Refuse files whose counts differ from the protocol's.")] = True,
    allow_other_encoders: Annotated[
        bool, typer.Option(help="Search features of networks that the model was not made for.")
    ] = False,
) -> None:
    """Show what a model finds: videos searched by their captions in all languages, as in the paper's Fig. 7."""
    if clips is not None:
        check_local_path(clips, "folder of clips")
    opened = open_benchmark(
        model,
        None,
        benchmark,
        features,
        protocol,
        split,
        "all",
        data_dir,
        translations,
        caption_kind,
        check_counts,
        allow_other_encoders,
    )
    if clips is not None:
        for row in opened.videos:
            row["clip"] = find_clip(row["video_id"], clips)
    elif "clip" not in opened.videos[0]:
        raise PolyvidError(f"{opened.protocol['benchmark']} does not include its videos: pass --clips.")
    loaded, processor = load_model(model)
    opened.check_encoders(model, loaded)
    sheets = search_by_own_captions(loaded, processor, opened.videos, opened.features, video)
    with locked(output, "polyvid contact-sheet"):
        for video_id, queries in sheets.items():
            write_png(queries, opened.videos, video_id, output / f"{video_id}.png")
        title = f"{opened.name} on {opened.protocol['benchmark']}, {split}"
        write_html(sheets, opened.videos, title, output / "index.html")
    print(f"Written to {output / 'index.html'}.")


def middle_frame(clip: str | Path | bytes) -> np.ndarray:
    """The middle frame of a clip, or the image itself, as (height, width, 3) uint8. Takes a path or the file's bytes.

    Raises:
        FileNotFoundError: if there is no such file.
        PolyvidError: if no frame can be decoded; the message names the file.
    """
    path = "The clip" if isinstance(clip, bytes) else clip
    if not isinstance(clip, bytes) and not Path(clip).is_file():
        raise FileNotFoundError(f"There is no clip {clip}.")
    frame = None
    try:
        with open_container(io.BytesIO(clip) if isinstance(clip, bytes) else Path(clip)) as container:
            middle = (container.duration or 0) / 2
            if middle:
                container.seek(int(middle))  # to the last key frame before it
            for frame in container.decode(video=0):
                if frame.time is None or frame.time * av.time_base >= middle:
                    break
            if frame is not None:
                return frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, IndexError, VideoError) as error:
        raise PolyvidError(f"{path} cannot be decoded ({error}).") from None
    raise PolyvidError(f"{path} holds no frame.")


def find_clip(video_id: str, folder: Path) -> str:
    """The file of a video, or of its picture, in a folder; `<video id>.mp4` if there is none."""
    found = [folder / f"{video_id}{suffix}" for suffix in SUFFIXES if (folder / f"{video_id}{suffix}").is_file()]
    return str(found[0] if found else folder / f"{video_id}.mp4")


def _as_data_url(frame: np.ndarray) -> str:
    buffer = io.BytesIO()
    imsave(buffer, frame, format="jpg")
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _font_families(queries: Sequence[Query]) -> list[str]:
    """Matplotlib's default font for Latin and Cyrillic, that of the `demo` extra for Chinese, and installed ones for
    what these two lack."""
    families = ["DejaVu Sans"]
    fonts = [entry for entry in font_manager.fontManager.ttflist if not entry.name.startswith("Last Resort")]  # boxes
    font = pinned_file(FONT)
    if font is not None:
        font_manager.fontManager.addfont(font)
        families.append(font_manager.FontProperties(fname=font).get_name())
        fonts.insert(0, font_manager.fontManager.ttflist[-1])
    missing = {character for query in queries for character in query.text if character.isprintable()}
    for entry in sorted(fonts, key=lambda entry: entry.name not in families):  # stable: those two first
        if not missing:
            break
        known = font_manager.get_font(entry.fname).get_charmap()
        if covered := {character for character in missing if ord(character) in known}:
            missing -= covered
            families.append(entry.name)
    if missing:
        languages = dict.fromkeys(language_name(query.language) for query in queries if missing & set(query.text))
        print(
            f"No installed font has all letters of {', '.join(languages)}: the PNG shows boxes in their place, "
            "index.html does not. Install fonts for them, such as Noto."
        )
    return list(dict.fromkeys(families))
