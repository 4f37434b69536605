"""Whether the files that a recipe names are there: asked before anything is loaded, which can take minutes."""

from pathlib import Path

from polyvid.dataset_scripts.building import find_shards
from polyvid.dataset_scripts.hub import check_source
from polyvid.modeling.paths_mmp import check_local_path
from polyvid.train.recipe import Recipe


def check_inputs(recipe: Recipe) -> None:
    """Look for the files and folders that a recipe names; read none of them.

    Raises:
        FileNotFoundError: for the first that is missing, or that is to come from the Hub, which cannot be reached.
    """
    model, data = recipe.model, recipe.data
    if model.init_from is not None:
        try:
            check_source(model.init_from, "model")
        except OSError as error:
            raise FileNotFoundError(
                f"Cannot load {model.init_from!r} to start from: train it first. ({error})"
            ) from None
    else:
        check_source(model.backbone, "text backbone")
    if data.data_dir is not None:
        check_local_path(Path(data.data_dir), "folder of official files")
    if data.features is not None:
        find_shards(data.features)
    if data.parallel_texts is not None:
        check_local_path(Path(data.parallel_texts), "table of parallel texts")
    for teacher in (recipe.objective.teacher, *recipe.objective.distill_teachers):
        if teacher is not None:
            check_source(teacher, "teacher")
    if data.clips is not None:
        find_shards(data.clips, data.train_split)
