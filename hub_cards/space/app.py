"""The demo: find clips with words in nine languages, or with a video, by three models side by side."""

from html import escape
from pathlib import Path

import gradio as gr
from decoding import VideoError
from render import Page, notice
from search import ARMS, LANGUAGES, Demo

FOLDER = Path(__file__).parent
ALL_ARMS = "all"
AUTOMATIC = "auto"
ARM_CHOICES = [
    ("No pre-training", "none"),
    ("MP · English", "mp"),
    ("MMP · nine languages", "mmp"),
    ("Side by side", ALL_ARMS),
]
HEADER = """<header class="hero"><h1>Find clips with words, in nine languages</h1>
<p>Type what you look for; a model places your words and {clips} animated clips in one space and shows the nearest.
Nothing is translated, and no caption is searched.</p></header>"""
ABOUT_ARMS = """<p class="about">All three models were fine-tuned on <b>English</b> names only; before that, <b>MP</b>
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

    def find_by_words(self, query: str, arm: str, names_in: str) -> str:
        """The results page of a query, for one arm or for all; clips are named in the query's language by default."""
        query = (query or "").strip()
        if not query:
            return notice("Type a few words, or choose an example.")
        language = self.demo.language_of(query) if names_in == AUTOMATIC else names_in
        right = self.demo.clips_named(query)
        note = f"<q>{escape(query)}</q>"
        if names_in == AUTOMATIC:
            note += f" read as {LANGUAGES[language]}"
        return self._results(
            {a: self.demo.arms[a].rank_by_texts([query])[0] for a in _arms(arm)}, language, right, note
        )

    def find_by_video(self, path: str | None, arm: str, names_in: str) -> str:
        """The results page of an uploaded video."""
        if not path:
            return notice("Upload a video: a clip of this page, or one of your own.")
        try:
            features = self.demo.video_features(path)
        except VideoError as error:
            return notice(f"This file cannot be read: {error}.")
        seconds = len(features)
        note = f"your video, {'its first ' if seconds == self.demo.max_seconds else ''}{seconds} s"
        rankings = {a: self.demo.arms[a].rank_by_video(features) for a in _arms(arm)}
        return self._results(rankings, "en" if names_in == AUTOMATIC else names_in, set(), note)

    def _results(self, rankings: dict, language: str, right: set[str], note: str) -> str:
        best = rankings.get("mmp") or next(iter(rankings.values()))
        shown = next(hit["video_id"] for hit in best if not right or hit["video_id"] in right)
        arm = ALL_ARMS if len(rankings) > 1 else next(iter(rankings))
        if arm == ALL_ARMS:
            clips = self.page.side_by_side(rankings, language, right, note)
        else:
            clips = self.page.one_arm(arm, rankings[arm], language, right, note)
        return clips + self.page.names_table(shown, language, self.demo.rank_by_name(shown), arm)

    def blocks(self) -> gr.Blocks:
        """The page. Nothing is searched before a browser opens it."""
        names_choices = [("Names: as the query", AUTOMATIC)]
        names_choices += [(f"Names: {name}", code) for code, name in LANGUAGES.items()]
        with gr.Blocks(title="Find clips with words, in nine languages", analytics_enabled=False) as blocks:
            gr.HTML(HEADER.format(clips=len(self.demo.names)))
            with gr.Row(elem_classes="controls"):
                arm = gr.Radio(
                    ARM_CHOICES, value="mmp", label="Model", elem_id="arm", container=False, scale=4, min_width=320
                )
                names_in = gr.Dropdown(
                    names_choices, value=AUTOMATIC, label="Clips named in", container=False, scale=1, min_width=160
                )
            gr.HTML(ABOUT_ARMS)
            with gr.Tab("Search with words"):
                with gr.Row(elem_classes="query"):
                    query = gr.Textbox(
                        self.demo.examples[0]["text"],
                        show_label=False,
                        container=False,
                        placeholder=" · ".join(LANGUAGES.values()),
                        max_length=200,
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
            with gr.Tab("Search with a video"):
                video = gr.Video(sources=["upload"], label="Your video", elem_id="video", height=220)
                by_video = gr.HTML(
                    notice("Upload a video: a clip of this page, or one of your own."), elem_id="by-video"
                )
            gr.HTML(FOOTER)
            ask = dict(fn=self.find_by_words, inputs=[query, arm, names_in], outputs=by_words, show_progress="minimal")
            gr.on([button.click, query.submit, arm.change, names_in.change, blocks.load], **ask)
            for chip, example in zip(chips, self.demo.examples, strict=True):
                typed = chip.click(
                    lambda text=example["text"]: text, outputs=query, show_progress="hidden", api_visibility="private"
                )
                typed.then(**ask, api_visibility="private")  # programs call find_by_words and find_by_video
            gr.on(
                [video.change, arm.change, names_in.change],
                self.find_by_video,
                [video, arm, names_in],
                by_video,
                show_progress="minimal",
            )
        return blocks


def _arms(arm: str) -> tuple[str, ...]:
    return ARMS if arm == ALL_ARMS else (arm,)


def main() -> None:
    """Serve the page; GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say where, as for every Gradio app."""
    sans = ["Inter", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Noto Sans CJK SC", "sans-serif"]
    theme = gr.themes.Base(
        primary_hue="green", neutral_hue="slate", radius_size="lg", font=sans, font_mono=["monospace"]
    )
    theme.set(
        button_primary_background_fill="#1b7837",
        button_primary_background_fill_hover="#155f2c",
        button_primary_background_fill_dark="#1b7837",
        button_primary_background_fill_hover_dark="#238f44",
        button_primary_text_color="white",
        checkbox_background_color_selected="#1b7837",
        checkbox_border_color_selected="#1b7837",
        color_accent="#1b7837",
        body_text_color_subdued="#556070",
        body_text_color_subdued_dark="#a3adba",
    )
    gr.set_static_paths([FOLDER / "clips"])
    App(Demo(FOLDER)).blocks().launch(
        theme=theme,
        css_paths=FOLDER / "style.css",
        footer_links=[],
        max_file_size="100mb",
        ssr_mode=False,  # would need Node.js
    )


if __name__ == "__main__":
    main()
