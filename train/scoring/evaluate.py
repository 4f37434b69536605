"""`polyvid evaluate`: test a model on a benchmark, and record what is needed to reproduce and compare the result."""

from pathlib import Path
from typing import Annotated

import typer

from polyvid.dataset_scripts.own_data.opening import parse_columns
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.dual_encoders.loading import FAMILIES, is_dual_encoder, load_dual_encoder
from polyvid.train.loading import recipe_of
from polyvid.train.recipe import load_recipe
from polyvid.train.scoring.benchmark import open_benchmark
from polyvid.train.scoring.corrections import TRAINING, Corrections, QueryBank
from polyvid.train.scoring.measure import measure


def evaluate(
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub id of an MMP model or a dual encoder, or TEXTS+IMAGES. Default: what --config trains."
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="Recipe file or name, such as demo/mmp. Default: the one saved with the model.")
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            help="vtt, vatex, m30k, youtube2text, c2kd, xm3600, activitynet, didemo, lsmdc, fluent_emoji_9, tux8; "
            "or a folder with metadata.csv, or a Hub id. Default: what it was trained on."
        ),
    ] = None,
    languages: Annotated[str, typer.Option(help="Such as en,de; all: every language with captions.")] = "all",
    features: Annotated[
        Path | None, typer.Option(help="Folder of feature shards; those of your own videos are made.")
    ] = None,
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
        bool, typer.Option(help="Search features of networks that the model was not made for; results say so.")
    ] = False,
    column: Annotated[
        list[str] | None, typer.Option(help="Of your own captions: a column's name, such as en=caption. Repeatable.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The run's name in tables. Default: its recipe's.")] = None,
    output: Annotated[Path | None, typer.Option(help="Default: outputs/results/<name>/<benchmark>.")] = None,
    device: Annotated[str | None, typer.Option(help="Default: cuda if there is one, else cpu.")] = None,
    int8: Annotated[
        bool, typer.Option(help="Also evaluate with texts encoded in int8, to see what that costs in recall.")
    ] = False,
    closed_forms: Annotated[
        bool, typer.Option("--closed-forms", help="Also show regressions fitted on the same training videos.")
    ] = False,
    videos: Annotated[
        Path | None,
        typer.Option(help="For a dual encoder such as CLIP: folder or list of the benchmark's videos themselves."),
    ] = None,
    frames: Annotated[
        str | None, typer.Option(help="For a dual encoder: '8 uniform' of a video, or '1 a second'. Default: 8.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="For a dual encoder: around a query, such as 'a video of {}'.")
    ] = None,
    hubness: Annotated[
        str | None,
        typer.Option(
            help="Also evaluate with QB-Norm against videos near every query: gated, as published, or always."
        ),
    ] = None,
    language_offsets: Annotated[
        bool, typer.Option(help="Also evaluate with the mean of each language moved to that of English.")
    ] = False,
    query_bank: Annotated[
        str,
        typer.Option(help="Texts that both are measured with: training, the captions the model learned, or a table."),
    ] = "training",
    own_language_bank: Annotated[
        bool, typer.Option(help="With --hubness: only the bank's texts in the language of a query.")
    ] = False,
    beta: Annotated[float, typer.Option(help="With --hubness: QB-Norm's inverse temperature.")] = 20.0,
    text_ceilings: Annotated[
        bool, typer.Option(help="Also find English captions from those in other languages, by the text backbone alone.")
    ] = True,
) -> None:
    """Search a benchmark with a model in every language: results.json, results.md, ranks.npz and a plot.

    A dual encoder such as CLIP or SigLIP 2 is tested in the same way, zero-shot, on the videos themselves.

    If the benchmark is the one that the model was trained on, its recipe says where features and files are. Any other
    benchmark is a zero-shot test across datasets (Table 12); it needs features of the same encoders.
    """
    recipe = load_recipe(config) if config else None
    if model is None:
        if recipe is None:
            raise PolyvidError("Pass --model, a folder or Hub id, or --config, the recipe that trained the model.")
        model = recipe.output_dir
    dual_encoder, opened_videos = None, None
    if is_dual_encoder(model):
        if int8 or features is not None:
            raise PolyvidError(
                f"{model} is a dual encoder, which sees videos itself: --features and --int8 are for MMP."
            )
        if videos is None:
            raise PolyvidError(f"{model} is a dual encoder, which sees videos itself: pass --videos, their folder.")
        dual_encoder, opened_videos = load_dual_encoder(model, frames, prompt, device), videos
    elif videos is not None or frames is not None or prompt is not None:
        raise PolyvidError(
            f"--videos, --frames and --prompt are for dual encoders ({', '.join(FAMILIES)}), which {model} is not."
        )
    opened = open_benchmark(
        model,
        recipe,
        benchmark,
        features,
        protocol,
        split,
        languages,
        data_dir,
        translations,
        caption_kind,
        check_counts,
        allow_other_encoders,
        parse_columns(column or []),
        opened_videos,
    )
    corrections = None
    if hubness is not None or language_offsets:
        own = recipe_of(model) if recipe is None and dual_encoder is None else None
        bank = QueryBank.of(query_bank, recipe or own, is_strangers=own is not None and not Path(model).exists())
        corrections = Corrections(bank, hubness, own_language_bank, language_offsets, beta)
    elif query_bank != TRAINING or own_language_bank:
        raise PolyvidError("A query bank corrects nothing by itself: pass --hubness or --language-offsets too.")
    table, folder = measure(
        model, opened, name, output, device, int8, closed_forms, corrections, dual_encoder, text_ceilings
    )
    print(table)
    print(f"Written to {folder}.")
