"""Loading what a training left behind: the model, and the recipe that it was trained by."""

from typing import TYPE_CHECKING

from transformers import AutoModel, AutoProcessor
from transformers.utils import cached_file

from polyvid.dataset_scripts.devices import find_device
from polyvid.dataset_scripts.hub import check_source
from polyvid.modeling import MMPModel, MMPProcessor

if TYPE_CHECKING:
    from polyvid.train.recipe import Recipe


def load_model(model: str, device: str | None = None) -> tuple[MMPModel, MMPProcessor]:
    """A model in float32 and its processor.

    Args:
        model: a folder or a Hub id.
        device: by default the GPU if there is one, else the CPU.

    Raises:
        FileNotFoundError: if `model` is a path where nothing exists.
        OSError: if there is no such model on the Hub, or the Hub cannot be reached.
        PolyvidError: if this machine has no such device.
    """
    check_source(model, "model")
    device = find_device(device)
    return (
        AutoModel.from_pretrained(model, dtype="float32").to(device),
        AutoProcessor.from_pretrained(model),
    )


def recipe_of(model: str) -> "Recipe | None":
    """The recipe that a model was trained by; None if there is no `recipe.yaml` next to the weights.

    Raises:
        FileNotFoundError: if `model` is a path where nothing exists.
        ConnectionError: if it is to come from the Hub, which cannot be reached.
        RecipeError: if the recipe is refused.
    """
    from polyvid.train.recipe import load_recipe  # it imports all that training needs

    check_source(model, "model")
    file = cached_file(
        model,
        "recipe.yaml",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return load_recipe(file) if file else None
