"""Opens a benchmark for a model: which captions search for which videos, and where the features are."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polyvid.dataset_scripts.building import all_shards, load_builder
from polyvid.dataset_scripts.own_data.opening import known_dataset
from polyvid.dataset_scripts.schema import canonical_language, in_table_order
from polyvid.modeling import MMPModel
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.paths_mmp import check_local_path
from polyvid.modeling.provenance_mmp import refuse_other_encoders
from polyvid.train.data.own_features import FEATURES, features_for
from polyvid.train.data.videos import VideoFeatures, VideoFiles, caption_languages, load_videos, open_dataset
from polyvid.train.dual_encoders.sentence_models import PAIR
from polyvid.train.loading import recipe_of
from polyvid.train.recipe import DISTILLED, DataRecipe, Recipe, distilled


@dataclass(frozen=True)
class OpenedBenchmark:
    """A split of a benchmark, and the run being tested on it.

    Attributes:
        name, seed: of the model's run.
        videos: rows of `polyvid.dataset_scripts.schema.CAPTIONS`.
        languages: to search in; those without captions are skipped.
        protocol: what identifies the benchmark in `results.json`.
        features: video id → array (seconds, width); of a dual encoder, which sees videos itself, → video file.
        allow_other_encoders: search features of networks that the model was not made for.
        trained_on: what the model was trained on, if it is this benchmark.
        label: how the run learned, where it must not be taken for zero-shot.
    """

    name: str
    seed: int | None
    videos: list[dict[str, Any]]
    languages: list[str]
    protocol: dict[str, Any]
    features: VideoFeatures | VideoFiles
    allow_other_encoders: bool = False
    trained_on: DataRecipe | None = None
    label: str | None = None

    def check_encoders(self, name: str, model: MMPModel) -> None:
        """Checks that the networks which made the features are those that the model was made for.

        Raises:
            PolyvidError: if they are not, unless `allow_other_encoders` is set.
        """
        if model.config.image_feature_dim is not None:
            return  # regions of images
        refuse_other_encoders(
            str(self.features.folder),
            self.features.encoders,
            name,
            model.config.video_encoders,
            "pass --features with features of those, or --allow-other-encoders.",
            allow=self.allow_other_encoders,
        )


def open_benchmark(
    model: str,
    recipe: Recipe | None = None,
    benchmark: str | None = None,
    features: Path | None = None,
    protocol: str | None = None,
    split: str = "test",
    languages: str = "all",
    data_dir: Path | None = None,
    translations: Path | None = None,
    caption_kinds: list[str] | None = None,
    check_counts: bool = True,
    allow_other_encoders: bool = False,
    columns: Mapping[str, str] | None = None,
    files: Path | None = None,
) -> OpenedBenchmark:
    """Find a benchmark's captions and features.

    If the recipe trains on this benchmark, missing arguments are taken from the recipe.

    Args:
        model: folder or Hub id.
        recipe: default: the one next to the model's weights.
        benchmark: its name here or in the paper, or captioned videos of one's own (a folder or Hub id, see
            `polyvid.dataset_scripts.own_data`). Default: the recipe's.
        features: folder of feature shards of its videos. Those of one's own are made if it is None.
        protocol: default: the paper's.
        split: the videos to search.
        languages: codes such as `"en,de"`, or `"all"` for every language with captions.
        data_dir: folder with the benchmark's official files.
        translations: file or folder of translated captions.
        caption_kinds: only captions with these ids.
        check_counts: refuse files whose counts differ from the protocol's.
        allow_other_encoders: of the result.
        columns: of one's own captions, see `DataRecipe`.
        files: folder or list of the videos themselves, instead of features.

    Raises:
        PolyvidError, FileNotFoundError: for an unknown benchmark, missing files, or counts that differ from the
            protocol's; for a model from the Hub whose recipe names files outside the working folder.
    """
    if files is None:
        check_local_path(model, "model")
    for path, what in (
        (features, "folder of features"),
        (files, "folder or list of videos"),
        (data_dir, "folder of official files"),
        (translations, "file or folder of translations"),
    ):
        if path is not None:
            check_local_path(path, what)
    is_strangers, is_named = recipe is None and not Path(model).exists(), benchmark is not None
    recipe = recipe or (recipe_of(model) if files is None else None)
    benchmark = benchmark or (recipe.data.dataset if recipe else None)
    if benchmark is None:
        raise PolyvidError(f"{model} has no recipe that names a benchmark: pass --benchmark.")
    known = known_dataset(benchmark)  # rejects an unknown name before anything else is checked
    benchmark = known or benchmark
    data = DataRecipe(
        dataset=benchmark,
        config=protocol,
        data_dir=str(data_dir) if data_dir else None,
        translations=str(translations) if translations else None,
        check_counts=check_counts,
        features=str(features) if features else None,
        caption_kinds=caption_kinds,
        columns=dict(columns or {}),
    )
    trained: DataRecipe | None = None
    if recipe is not None and _is_same(recipe.data.dataset, benchmark):
        trained = recipe.data
        if is_strangers:
            _refuse_paths_outside(model, trained, data, is_named)
        data.features = data.features or trained.features
        data.config = data.config or trained.config
        data.data_dir = data.data_dir or trained.data_dir
        if data.translations is None and trained.translations and Path(trained.translations).exists():
            data.translations = trained.translations
        data.caption_kinds = data.caption_kinds or trained.caption_kinds
        data.columns = data.columns or trained.columns
        data.split_seed = trained.split_seed
    name, seed = (recipe.name, recipe.training.seed) if recipe else (_name_of(model), None)
    label = DISTILLED if recipe is not None and distilled(recipe) else None
    if known is None:
        opened = _open_own(model, data, split, languages, name, seed, allow_other_encoders, files)
        return replace(opened, trained_on=trained, label=label)
    if files is None:
        if data.features is None:
            raise PolyvidError(f"Pass --features: the folder with the features of the videos of {benchmark}.")
        all_shards(data.features)  # what is missing is named before hundreds of thousands of captions are read
    asked = None if languages == "all" else [canonical_language(code) for code in languages.split(",")]
    videos = load_videos(data, split, asked or "all")
    builder = load_builder(known)(config_name=data.config)
    description = {
        "benchmark": benchmark,
        "protocol": builder.config.name,
        "split": split,
        "source": builder.config.description or builder.info.description,
        "caption_kinds": list(data.caption_kinds) if data.caption_kinds else None,
        "captions_by": _captions_by(videos),
    }
    found = VideoFiles(files) if files is not None else VideoFeatures(data.features or "")
    wanted = asked or in_table_order(caption_languages(videos))
    return OpenedBenchmark(name, seed, videos, wanted, description, found, allow_other_encoders, trained, label)


def _open_own(
    model: str,
    data: DataRecipe,
    split: str,
    languages: str,
    name: str,
    seed: int | None,
    allow_other_encoders: bool,
    files: Path | None,
) -> OpenedBenchmark:
    """One's own captions; where neither features nor files are named, features are made of the videos."""
    own = open_dataset(data)
    assert own is not None
    codes = "all" if languages == "all" else [canonical_language(code) for code in languages.split(",")]
    videos = load_videos(data, split, codes)
    if files is None and (data.features is None or _was_made(data.features)):
        data.features = str(features_for(own, model))
    description = {
        "benchmark": own.label,
        "protocol": own.protocol,
        "split": split,
        "source": f"Captioned videos of one's own: {own.origin}",
        "caption_kinds": list(data.caption_kinds) if data.caption_kinds else None,
        "captions_by": _captions_by(videos),
    }
    wanted = in_table_order(caption_languages(videos)) if codes == "all" else list(codes)
    found = VideoFiles(files) if files is not None else VideoFeatures(data.features or "")
    return OpenedBenchmark(name, seed, videos, wanted, description, found, allow_other_encoders)


def _was_made(features: str) -> bool:
    """Whether a folder was made by `make_features`, or would be: then it is brought up to date."""
    return Path(features).parent == FEATURES


def _is_same(dataset: str | None, other: str) -> bool:
    if dataset is None:
        return False
    here = Path(dataset).exists() and Path(other).exists()
    return dataset == other or (here and Path(dataset).resolve() == Path(other).resolve())


def _captions_by(videos: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Language -> who wrote its captions."""
    sources: dict[str, set[str]] = {}
    for video in videos:
        for caption in video["captions"]:
            sources.setdefault(caption["language"], set()).add(caption["source"])
    return {language: sorted(found) for language, found in sorted(sources.items())}


def _name_of(model: str) -> str:
    """The last part of a folder or Hub id, or of each tower of a pair."""
    return PAIR.join(Path(part).name for part in model.split(PAIR))


def _refuse_paths_outside(model: str, trained: DataRecipe, given: DataRecipe, is_named: bool) -> None:
    """The recipe of a model from the Hub says what it was trained on, not which files of this machine are read."""
    names = ("features", "data_dir", "translations")
    paths = {name: getattr(trained, name) for name in names if not getattr(given, name)}
    if not is_named and trained.dataset is not None and Path(trained.dataset).exists():
        paths["benchmark"] = trained.dataset
    for name, path in paths.items():
        if path and not Path(path).resolve().is_relative_to(Path.cwd().resolve()):
            raise PolyvidError(
                f"The recipe of {model} names {path}, outside the working folder, where a model from the Hub may not "
                f"choose files: pass --{name.replace('_', '-')}."
            )
