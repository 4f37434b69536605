"""`polyvid app`: a page that searches the user's own videos, with words or with a video, and plays the moments.

It shows the index that `polyvid search` keeps. Unlike the demo's page it runs from the package, and the only files that
it serves are the videos of that index.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import torch
import typer

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.video_index_mmp import VideoIndex
from polyvid.modeling.video_reading_mmp import VideoEnd, VideoError, View, Window
from polyvid.train.search.collection import Settings, open_collection
from polyvid.train.search.commands import parse_lengths, say_what_was_done
from polyvid.train.search.page import thumbnail
from polyvid.train.search.results import moment
from polyvid.train.search.sources import Source, find_source
from polyvid.train.search.trained_on import trained_on_drawings
from polyvid.train.wording import counted

HITS = 12
MAX_PATH_CHARACTERS = 4096
HERE = Path(__file__).parent
STYLE = """
.clips.wide { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.clips.wide .frame { aspect-ratio: 16 / 9; background: #222; }
@media (max-width: 640px) { .clips.wide { grid-template-columns: 1fr; } }
"""


class OwnVideos:
    """What the page and its tools do.

    Args:
        index: of the videos, with moments.
        files: `{video_id: absolute path}`.
        model, processor: those that made the index.
        encoders: the networks of the model.
    """

    def __init__(self, index: VideoIndex, files: dict[str, Path], model: Any, processor: Any, encoders: Sequence[Any]):
        index.read_queries_with(model, processor)
        self.index, self.files, self.encoders = index, files, list(encoders)
        self.model, self.processor = model, processor
        self.max_seconds: int = processor.feature_extractor.max_length
        self._ids = {str(path): video_id for video_id, path in files.items()}

    def find_with_words(self, query: str) -> list[dict[str, Any]]:
        """Find the moments of the videos in this collection that fit a description best.

        Args:
            query: What to look for, a few words in any language, such as "a dog runs on the beach".

        Returns:
            The best moments first, each with its video, the first and last second, and a score from -1 to 1.
        """
        return [_told(hit) for hit in self._by_words(query)]

    def find_with_video(self, video: str | None) -> list[dict[str, Any]]:
        """Find the moments of the videos in this collection that look most like a given video.

        Args:
            video: The video to compare with; at most 20 MB, of which the first seconds are seen. For one of this
                collection, use find_similar.

        Returns:
            The best moments first, each with its video, the first and last second, and a score from -1 to 1.
        """
        return [_told(hit) for hit in self._by_video(video)]

    def find_similar(self, video: str, start: float = 0) -> list[dict[str, Any]]:
        """Find the moments of other videos in this collection that look most like a moment of one of its videos.

        Args:
            video: A video of this collection, named as the searches name it, or the path of its file.
            start: The first second of the moment, as the searches give it; 0 is the beginning of the video.

        Returns:
            The best moments first, each with its video, the first and last second, and a score from -1 to 1.
        """
        return [_told(hit) for hit in self._by_moment(video, start)]

    def show_with_words(self, query: str) -> str:
        """The results of a query as HTML."""
        try:
            return self._shown(self._by_words(query), f"<q>{escape(query.strip())}</q>")
        except PolyvidError as error:
            return _notice(str(error))

    def show_with_video(self, video: str | None) -> str:
        """The results of an uploaded video as HTML."""
        try:
            return self._shown(self._by_video(video), "your video")
        except PolyvidError as error:
            return _notice(str(error))

    def _by_words(self, query: str) -> list[dict[str, Any]]:
        from polyvid.hub_cards.space.limits import MAX_QUERY_CHARACTERS

        query = (query or "").strip()
        if not query:
            raise PolyvidError("Type a few words.")
        if len(query) > MAX_QUERY_CHARACTERS:  # the text box stops there too, but programs do not use it
            raise PolyvidError(f"The query has {len(query):,} characters: at most {MAX_QUERY_CHARACTERS} are read.")
        if any(unicodedata.category(character) == "Cs" for character in query):
            raise PolyvidError("The query is not valid Unicode: it holds half of a surrogate pair.")
        return self.index.search(query, HITS)

    def _by_video(self, video: str | None) -> list[dict[str, Any]]:
        if not video:
            raise PolyvidError("Upload a video.")
        features = self._features(video)
        return self.index.search(self.model.encode_videos([features], self.processor)[0], HITS)

    def _by_moment(self, video: str, start: float | None) -> list[dict[str, Any]]:
        # Only names that the index has are looked up: whatever else an agent asks for, no file is touched.
        video_id = video if video in self.files else self._ids.get(os.path.abspath(video or ""))
        if video_id is None:
            raise PolyvidError(f"There is no video {(video or '')[:200]!r} in this collection: name it as the hits do.")
        vector, hits = self._moment(video_id, start or 0), 2 * HITS
        while True:  # the video's own moments, which are like it, may come first
            found = self.index.search(vector, hits)
            others = [hit for hit in found if hit["video_id"] != video_id]
            if len(others) >= HITS or len(found) < hits:
                return others[:HITS]
            hits *= 4

    def _moment(self, video_id: str, start: float) -> torch.Tensor:
        """(embed_dim,) of the moment that begins nearest to a second; of several lengths, the longest."""
        vectors, rows = self.index.engine.vectors, self.index.engine.rows
        if vectors is None or rows is None:
            raise PolyvidError("The vectors of this index are in a database.")
        video = list(rows.video_ids).index(video_id)
        if rows.videos is None or rows.spans is None:
            return vectors[torch.tensor([video])][0]
        own = (rows.videos == video).nonzero()[:, 0]
        begins, ends = rows.spans[own].T
        length = int(ends.max())
        if not 0 <= start < length:
            raise PolyvidError(f"{video_id} has no second {start:g}: it has {length}, from 0 on.")
        away = (begins - start).abs()
        nearest = (away == away.min()).nonzero()[:, 0]
        return vectors[own[nearest[ends[nearest].argmax()]][None]][0]

    def _features(self, video: str) -> torch.Tensor:
        """(seconds, width) of a file that somebody uploaded, decoded in a process of its own, within limits."""
        from polyvid.hub_cards.space.limits import DECODING_BYTES, DECODING_SECONDS
        from polyvid.modeling.window_batches_mmp import encode_windows
        from polyvid.train.extraction.pool import decode_videos

        def decode(views: list[View]) -> Iterator[Window | VideoEnd]:
            limits = (DECODING_SECONDS, DECODING_BYTES)
            return _first_seconds(decode_videos([("upload", video)], views, 1, limits), self.max_seconds, len(views))

        (_, found), *_ = encode_windows(decode, self.encoders)
        if isinstance(found, VideoError):
            costly = any(sign in str(found) for sign in ("process died", "MemoryError", "Cannot allocate memory"))
            reason = "it takes too much time or memory to decode" if costly else str(found).rstrip(".")
            raise PolyvidError(f"This file cannot be read: {reason}.")
        return torch.from_numpy(found)

    def _shown(self, hits: list[dict[str, Any]], note: str) -> str:
        cards = "".join(self._card(rank, hit) for rank, hit in enumerate(hits, 1))
        return f'<div class="status"><span>{note}</span></div><div class="clips wide">{cards}</div>'

    def _card(self, rank: int, hit: dict[str, Any]) -> str:
        path, name = self.files[hit["video_id"]], escape(hit["video_id"])
        start, end = hit.get("start", 0), hit.get("end")
        # The fragment makes browsers start, and stop, at these seconds.
        address = f"gradio_api/file={quote(str(path))}#t={start}" + (f",{end}" if end is not None else "")
        width = round(100 * max(0.0, min(1.0, hit["score"])))
        return (
            f'<figure class="clip" data-id="{name}" data-start="{start}"><div class="frame">'
            f'<video src="{escape(address)}" poster="{_picture(path, start, end)}" aria-label="{name}" controls '
            f'preload="none" playsinline></video><span class="position">{rank}</span></div>'
            f"<figcaption><strong>{name}</strong><small>{moment(hit)}</small>"
            f'<span class="score" title="cosine"><i style="width:{width}%"></i><b>{hit["score"]:.2f}</b></span>'
            "</figcaption></figure>"
        )

    def blocks(self, name: str, note: str = "") -> Any:
        """The page as `gradio.Blocks`; the methods `find_...` are what programs and agents call."""
        import gradio as gr

        from polyvid.hub_cards.space.limits import (
            MAX_QUERY_CHARACTERS,
            MAX_UPLOAD_BYTES,
            WAITING_REQUESTS,
            limit_downloads,
        )

        with gr.Blocks(title=f"Search {name}", analytics_enabled=False, delete_cache=(600, 1800)) as blocks:
            gr.HTML(
                f'<header class="hero"><h1>Search {escape(name)}</h1><p>Type what you look for, in any language, or '
                f"upload a video, to search {counted(len(self.files), 'video')}. {escape(note)}</p></header>"
            )
            kinds = [("Search with words", "words"), ("Search with a video", "video")]
            gr.Radio(kinds, value="words", label="Search with", elem_id="kind", container=False, interactive=True)
            with gr.Column(elem_id="with-words"):
                with gr.Row(elem_classes="query"):
                    query = gr.Textbox(
                        label="query",
                        show_label=False,
                        container=False,
                        placeholder="a dog on the beach · ein Hund am Strand · mbwa ufukweni",
                        max_length=MAX_QUERY_CHARACTERS,
                        elem_id="query",
                        scale=5,
                    )
                    button = gr.Button("Search", variant="primary", elem_id="search", scale=1, min_width=96)
                by_words = gr.HTML(elem_id="by-words")
            with gr.Column(elem_id="with-video"):
                video = gr.Video(sources=["upload"], label="video", elem_id="video", height=220)
                limit_downloads(video)
                upload = f"Upload a video (up to {MAX_UPLOAD_BYTES >> 20} MB)."
                by_video = gr.HTML(_notice(upload), elem_id="by-video")
            gr.on(
                [button.click, query.submit],
                self.show_with_words,
                query,
                by_words,
                show_progress="minimal",
                api_visibility="private",
            )
            video.change(self.show_with_video, video, by_video, show_progress="minimal", api_visibility="private")
            # For programs: nothing on the page, but tools with the same components, so with the same checks.
            found, called = gr.JSON(visible=False), gr.Button(visible=False)
            known = gr.Textbox(label="video", max_length=MAX_PATH_CHARACTERS, visible=False)
            start = gr.Number(0, label="start", visible=False)
            called.click(_refusing(self.find_with_words), query, found, api_name="find_with_words")
            called.click(_refusing(self.find_with_video), video, found, api_name="find_with_video")
            called.click(_refusing(self.find_similar), [known, start], found, api_name="find_similar")
        # One search at a time uses the cores best. Without the queue, programs could start any number of them.
        blocks.queue(max_size=WAITING_REQUESTS, default_concurrency_limit=1, api_open=False)
        return blocks


def app(
    videos: Annotated[
        str,
        typer.Argument(help="Folder of videos, a list of them, a pattern or one video, as for polyvid search."),
    ],
    model: Annotated[
        str | None, typer.Option(help="Folder or Hub id. Needed for videos that were not searched before.")
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(help="For a model that does not say which networks made its features; as in polyvid extract."),
    ] = None,
    moment_seconds: Annotated[
        str | None, typer.Option(metavar="SECONDS", help="Lengths of the moments, for videos not searched before.")
    ] = None,
    index: Annotated[Path | None, typer.Option(help="Where the index is kept. Default: as polyvid search.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Decoding processes.")] = 1,
    device: Annotated[str | None, typer.Option(help="Default: cuda if there is one, else cpu.")] = None,
    mcp: Annotated[bool, typer.Option("--mcp", help="Offer the searches as tools to agents, by MCP.")] = False,
    port: Annotated[int | None, typer.Option(help="Default: the first free one from 7860.")] = None,
) -> None:
    """Open a page that searches your own videos, with words in any language or with a video.

    Videos that are new or changed are made searchable first, as by polyvid search. Only this machine can open the page,
    unless GRADIO_SERVER_NAME says otherwise.
    """
    if find_spec("gradio") is None:
        raise ImportError("The app needs gradio: pip install 'polyvid[space]'.")
    if mcp and find_spec("mcp") is None:
        raise ImportError("--mcp needs mcp: pip install 'polyvid[mcp]'.")
    source = find_source(videos)
    if source is None:
        raise PolyvidError(f"{videos} is an index, which does not say where its videos are: pass the videos.")
    page, note = open_page(
        source,
        index,
        Settings(model, tuple(encoder) if encoder else None, parse_lengths(moment_seconds), device, workers),
    )
    serve(page, source, note, mcp, port)


def open_page(source: Source, index: Path | None, settings: Settings) -> tuple[OwnVideos, str]:
    """The page of some videos, whose index is brought up to date; and what is to be known of the model, or "".

    Raises:
        PolyvidError, OSError, ImportError: what `open_collection` raises, and for a model without networks.
    """
    from polyvid.train.dual_encoders.searching import load_searching_model
    from polyvid.train.search.frames import load_encoders

    found = open_collection(source, index or source.index_path(), settings)
    say_what_was_done(source, found)
    name = settings.model or found.index.made_by
    model, processor = load_searching_model(name, settings.device)
    loaded = load_encoders(model, settings.encoders)
    files = {video_id: source.files[video_id].resolve() for video_id in found.index.video_ids}
    return OwnVideos(found.index, files, model, processor, loaded.encoders), trained_on_drawings(name) or ""


def serve(page: OwnVideos, source: Source, note: str, mcp: bool, port: int | None) -> None:
    """Serves the page until Ctrl-C; no file but the videos of the index."""
    import gradio as gr
    from fastapi.middleware import Middleware
    from fastapi.middleware.trustedhost import TrustedHostMiddleware

    from polyvid.hub_cards.space.limits import MAX_UPLOAD_BYTES, SESSIONS_KEPT, RequestLimits
    from polyvid.hub_cards.space.look import theme

    middleware = [Middleware(RequestLimits)]
    here = ["localhost", "127.0.0.1"]
    if os.environ.get("GRADIO_SERVER_NAME", here[0]) in here and "GRADIO_ROOT_PATH" not in os.environ:
        # Else a web page whose name is made to lead here could read the videos through the user's browser.
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=here))
    gr.set_static_paths([str(path) for path in page.files.values()])
    page.blocks(Path(source.name).name or source.name, note).launch(
        theme=theme(),
        css=(HERE / "style.css").read_text(encoding="utf-8") + STYLE,
        footer_links=[],
        max_file_size=MAX_UPLOAD_BYTES,
        state_session_capacity=SESSIONS_KEPT,
        app_kwargs={"middleware": middleware},
        mcp_server=mcp,
        server_port=port,
        ssr_mode=False,  # would need Node.js
    )


def _first_seconds(events: Iterable[Window | VideoEnd], seconds: int, views: int) -> Iterator[Window | VideoEnd]:
    """What is decoded of a video's first seconds; a model reads no more of it."""
    seen: Counter[int] = Counter()
    for event in events:
        if isinstance(event, VideoEnd):
            yield event
            return
        seen[event.view] += 1
        if seen[event.view] <= seconds:
            yield event
        if len(seen) == views and min(seen.values()) >= seconds:
            yield VideoEnd(event.video_id, None, 0.0)
            return


def _refusing(find: Any) -> Any:
    """The same tool, whose refusals programs get as they are, without a traceback."""
    from functools import wraps

    import gradio as gr

    @wraps(find)
    def tool(*arguments: Any) -> Any:
        try:
            return find(*arguments)
        except PolyvidError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return tool


def _told(hit: dict[str, Any]) -> dict[str, Any]:
    told = {"video": hit["video_id"], "score": round(hit["score"], 4)}
    return told | {key: hit[key] for key in ("start", "end") if key in hit}


@lru_cache(maxsize=512)
def _picture(path: Path, start: float, end: float | None) -> str:
    return thumbnail(path, (start + end) / 2 if end is not None else 0.0)


def _notice(text: str) -> str:
    return f'<div class="notice">{escape(text)}</div>'
