"""A collection on the Hub: the models of one folder side by side, such as the three that `polyvid demo` compares."""

import json
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import HfApi

from polyvid.hub_cards.publish import facts


def models_in(folder: Path) -> list[Path]:
    """The finished models below `folder`, without those that others among them started from.

    Raises:
        FileNotFoundError: if there are none.
    """
    found = [path.parent for path in sorted(folder.glob("*/config.json")) if _is_model(path)]
    earlier = {stage.file.parent for model in found for stage in facts.stages_of(model)[:-1]}
    models = [model for model in found if model.resolve() not in earlier]
    if not models:
        raise FileNotFoundError(f"There is no finished model in a folder of {folder}: `polyvid train` writes them.")
    return models


def _is_model(config: Path) -> bool:
    is_mmp = json.loads(config.read_text(encoding="utf-8")).get("model_type") == "mmp"
    return is_mmp and any(config.parent.glob("*.safetensors"))


def collect_models(repo_id: str, models: Iterable[str], private: bool | None) -> str:
    """Makes the collection `repo_id` of models, or adds to it what it lacks, and returns its address.

    Args:
        repo_id: its owner and its title.
        models: ids on the Hub, in order.
        private: who can see it; the models' own settings are left alone.

    Raises:
        huggingface_hub.errors.HTTPError: if the Hub refuses it.
    """
    api = HfApi()
    owner, title = repo_id.split("/")
    collection = api.create_collection(title, namespace=owner, private=bool(private), exists_ok=True)
    for model in models:
        api.add_collection_item(collection.slug, item_id=model, item_type="model", exists_ok=True)
    return f"{api.endpoint}/collections/{collection.slug}"
