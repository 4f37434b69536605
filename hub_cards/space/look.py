"""Colours and letters of both pages; `style.css` has the rest."""

import gradio as gr


def theme() -> gr.themes.Base:
    """Gradio's plain theme, in green."""
    sans = ["Inter", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Noto Sans CJK SC", "sans-serif"]
    look = gr.themes.Base(
        primary_hue="green", neutral_hue="slate", radius_size="lg", font=sans, font_mono=["monospace"]
    )
    look.set(
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
    return look
