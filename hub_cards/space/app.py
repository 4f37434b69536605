"""The demo: find clips with words in nine languages, or with a video, by three models side by side."""

import unicodedata
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr
from decoding import VideoError
from fastapi.middleware import Middleware
from limits import (
    MAX_QUERY_CHARACTERS,
    MAX_UPLOAD_BYTES,
    SESSIONS_KEPT,
    WAITING_REQUESTS,
    RequestLimits,
    limit_downloads,
)
from look import theme
from render import Page, notice, scores_table
from search import LANGUAGES, MODELS, Demo

FOLDER = Path(__file__).parent
SIDE_BY_SIDE = "all"
AUTOMATIC = "auto"
FOR_PROGRAMS = 10  # clips that programs and agents are told of
QUERY_KINDS = [("Search with words", "words"), ("Search with a video", "video")]
UPLOAD = f"Upload a video: a clip of this page, or one of your own (up to {MAX_UPLOAD_BYTES >> 20} MB)."
MODEL_CHOICES = [
    ("No pre-training", "none"),
    ("MP · English", "mp"),
    ("MMP · nine languages", "mmp"),
    ("Side by side", SIDE_BY_SIDE),
]
HEADER = """<header class="hero"><h1>Find clips with words, in nine languages</h1>
<p>Type what you look for; a model places your words and {clips} animated clips in one space and shows the nearest.
Nothing is translated, and no caption is searched.</p></header>"""
ABOUT_MODELS = """<p class="about">All three models were fine-tuned on <b>English</b> names only; before that, <b>MP</b>
was pre-trained on other clips with English captions, <b>MMP</b> on the same clips with captions in nine languages, and
the first not at all.</p>"""
FOOTER = """<footer class="credits">Clips: Fluent Emoji animations, Microsoft, MIT. Names: Unicode CLDR, Unicode-3.0.
None of these clips was seen in training. The examples are names that MMP finds. Method: Huang, Patrick et al., <a
href="https://aclanthology.org/2021.naacl-main.195/" target="_blank">NAACL 2021</a>; these models are small.</footer>"""


class App:
    """What the controls do, and their layout."""

    def __init__(self, demo: Demo):
        self.demo = demo
        self.page = Page(demo.folder / "clips", demo.names, demo.stills)

    def find_by_words(self, query: str, model: str, names_in: str) -> str:
        """The results page of a query, for one model or for all; clips are named in the query's language by default."""
        query = (query or "").strip()
        if reason := _refusal(query):
            return notice(reason)
        language = self.demo.language_of(query) if names_in == AUTOMATIC else names_in
        right = self.demo.clips_named(query)
        note = f"<q>{escape(query)}</q>"
        if names_in == AUTOMATIC and any(map(str.isalpha, query)):  # signs and emoji are of no language
            note += f" read as {LANGUAGES[language]}"
        return self._results(
            {name: self.demo.searchers[name].rank_by_texts([query])[0] for name in _models(model)},
            language,
            right,
            note,
        )

    def find_by_video(self, path: str | None, model: str, names_in: str) -> str:
        """The results page of an uploaded video."""
        if not path:
            return notice(UPLOAD)
        try:
            features = self.demo.video_features(path)
        except VideoError as error:
            return notice(f"This file cannot be read: {error}.")
        seconds = len(features)
        note = f"your video, {'its first ' if seconds == self.demo.max_seconds else ''}{seconds} s"
        rankings = {name: self.demo.searchers[name].rank_by_video(features) for name in _models(model)}
        return self._results(rankings, "en" if names_in == AUTOMATIC else names_in, set(), note)

    def find_with_words(self, query: str) -> list[dict[str, Any]]:
        """Find the animated emoji that fit a description best.

        Args:
            query: What to look for, a few words in English, German, French, Czech, Chinese, Russian, Vietnamese,
                Swahili or Spanish.

        Returns:
            The best clips first, each with its id, its name in English, and a score from -1 to 1.
        """
        query = (query or "").strip()
        if reason := _refusal(query):
            raise gr.Error(reason, print_exception=False)
        return self._told(self.demo.searchers["mmp"].rank_by_texts([query])[0])

    def find_with_video(self, video: str | None) -> list[dict[str, Any]]:
        """Find the animated emoji that look most like a given video.

        Args:
            video: The video to compare with; at most 20 MB, of which the first seconds are seen.

        Returns:
            The best clips first, each with its id, its name in English, and a score from -1 to 1.
        """
        if not video:
            raise gr.Error("Upload a video.", print_exception=False)
        try:
            features = self.demo.video_features(video)
        except VideoError as error:
            raise gr.Error(f"This file cannot be read: {error}.", print_exception=False) from None
        return self._told(self.demo.searchers["mmp"].rank_by_video(features))

    def _told(self, ranking: list[dict]) -> list[dict[str, Any]]:
        names = self.demo.names
        return [
            {"clip": hit["video_id"], "name": names[hit["video_id"]]["en"], "score": round(hit["score"], 4)}
            for hit in ranking[:FOR_PROGRAMS]
        ]

    def _results(self, rankings: dict, language: str, right: set[str], note: str) -> str:
        best = rankings.get("mmp") or next(iter(rankings.values()))
        shown = next(hit["video_id"] for hit in best if not right or hit["video_id"] in right)
        model = SIDE_BY_SIDE if len(rankings) > 1 else next(iter(rankings))
        if model == SIDE_BY_SIDE:
            clips = self.page.side_by_side(rankings, language, right, note)
        else:
            clips = self.page.one_model(model, rankings[model], language, right, note)
        return clips + self.page.names_table(shown, language, self.demo.rank_by_name(shown), model)

    def blocks(self) -> gr.Blocks:
        """The page. Nothing is searched before a browser opens it."""
        names_choices = [("Names: as the query", AUTOMATIC)]
        names_choices += [(f"Names: {name}", code) for code, name in LANGUAGES.items()]
        with gr.Blocks(
            title="Find clips with words, in nine languages", analytics_enabled=False, delete_cache=(600, 1800)
        ) as blocks:
            gr.HTML(HEADER.format(clips=len(self.demo.names)))
            with gr.Row(elem_classes="controls"):
                model = gr.Radio(
                    MODEL_CHOICES, value="mmp", label="Model", elem_id="model", container=False, scale=4, min_width=320
                )
                names_in = gr.Dropdown(
                    names_choices, value=AUTOMATIC, label="Clips named in", container=False, scale=1, min_width=220
                )
            gr.HTML(ABOUT_MODELS)
            # Not tabs: on a narrow screen Gradio hides the second one in a menu. style.css shows the chosen column.
            gr.Radio(QUERY_KINDS, value="words", label="Search with", elem_id="kind", container=False, interactive=True)
            with gr.Column(elem_id="with-words"):
                with gr.Row(elem_classes="query"):
                    query = gr.Textbox(
                        self.demo.examples[0]["text"],
                        show_label=False,
                        container=False,
                        placeholder=" · ".join(LANGUAGES.values()),
                        max_length=MAX_QUERY_CHARACTERS,
                        elem_id="query",
                        scale=5,
                    )
                    button = gr.Button("Search", variant="primary", elem_id="search", scale=1, min_width=96)
                with gr.Row(elem_classes="chips"):
                    chips = [
                        gr.Button(f"{LANGUAGES[e['language']]} · {e['text']}", size="sm", min_width=0)
                        for e in self.demo.examples
                    ]
                by_words = gr.HTML(elem_id="by-words")
            with gr.Column(elem_id="with-video"):
                video = gr.Video(sources=["upload"], label="Your video", elem_id="video", height=220)
                limit_downloads(video)
                by_video = gr.HTML(notice(UPLOAD), elem_id="by-video")
            gr.HTML(scores_table(self.demo.scores, len(self.demo.names)))
            gr.HTML(FOOTER)
            ask = dict(
                fn=self.find_by_words, inputs=[query, model, names_in], outputs=by_words, show_progress="minimal"
            )
            ask["api_visibility"] = "undocumented"  # programs and agents are shown find_with_words and find_with_video
            gr.on([button.click, query.submit, model.change, names_in.change, blocks.load], **ask)
            for chip, example in zip(chips, self.demo.examples, strict=True):
                typed = chip.click(
                    lambda text=example["text"]: text, outputs=query, show_progress="hidden", api_visibility="private"
                )
                typed.then(**ask | {"api_visibility": "private"})
            gr.on(
                [video.change, model.change, names_in.change],
                self.find_by_video,
                [video, model, names_in],
                by_video,
                show_progress="minimal",
                api_visibility="undocumented",
            )
            # Nothing on the page, but two tools with the same components, so with the same checks.
            found, called = gr.JSON(visible=False), gr.Button(visible=False)
            called.click(self.find_with_words, query, found, api_name="find_with_words")
            called.click(self.find_with_video, video, found, api_name="find_with_video")
        # One search at a time uses the cores best. Without the queue, programs could start any number of them.
        blocks.queue(max_size=WAITING_REQUESTS, default_concurrency_limit=1, api_open=False)
        return blocks


def _refusal(query: str) -> str | None:
    """Why a query is not searched for; None if it is."""
    if not query:
        return "Type a few words, or choose an example."
    if len(query) > MAX_QUERY_CHARACTERS:  # the text box stops there too, but programs do not use it
        return f"The query has {len(query):,} characters: at most {MAX_QUERY_CHARACTERS} are read."
    if any(unicodedata.category(character) == "Cs" for character in query):
        return "The query is not valid Unicode: it holds half of a surrogate pair."
    return None


def _models(model: str) -> tuple[str, ...]:
    return MODELS if model == SIDE_BY_SIDE else (model,)


def main() -> None:
    """Serve the page; GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say where, as for every Gradio app."""
    gr.set_static_paths([FOLDER / "clips"])
    App(Demo(FOLDER)).blocks().launch(
        theme=theme(),
        css_paths=FOLDER / "style.css",
        footer_links=[],
        max_file_size=MAX_UPLOAD_BYTES,
        state_session_capacity=SESSIONS_KEPT,
        app_kwargs={"middleware": [Middleware(RequestLimits)]},
        mcp_server=find_spec("mcp") is not None,  # as on the Hub, which installs it with requirements.txt
        ssr_mode=False,  # would need Node.js
    )


if __name__ == "__main__":
    main()
