"""Puts the video networks of a model into its folder, so that the folder alone answers from video files."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging

from polyvid.modeling.frame_encoders_mmp import EFFICIENTNET
from polyvid.modeling.modeling_efficientnet_lite0 import EfficientNetLite0Model
from polyvid.modeling.video_encoders_mmp import FOLDER, folder_of
from polyvid.train.checksums import write_checksums


def carry_encoders(start: str | None, folder: Path) -> None:
    """Copies the video networks that lie in the folder `start` into that of the model that was trained from it.

    Without them, the new model would need the packages or addresses that its start came from. A start on the Hub stays
    on the Hub, and so do its networks.
    """
    networks = Path(start or "") / FOLDER
    if start is None or not networks.is_dir() or (folder / FOLDER).exists():
        return
    unfinished = folder / f".{FOLDER}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(networks, unfinished, ignore=shutil.ignore_patterns(".*"))
    unfinished.rename(folder / FOLDER)


def bundle_encoders(records: Sequence[Mapping[str, Any]] | None, folder: Path) -> list[Path]:
    """Saves those networks whose weights come with an installed package: EfficientNet-Lite0 (14 MB).

    All others stay named by id and revision, unless somebody has put them there; `polyvid convert-backbone` makes such
    a sub-folder of R(2+1)D and S3D.

    Args:
        records: `config.video_encoders` of the model.
        folder: of the model.

    Returns:
        The sub-folders that were made; those that are there already stay as they are.
    """
    made = []
    for record in records or []:
        output = folder / folder_of(record)
        if record["id"] != EFFICIENTNET or (output / "model.safetensors").exists():
            continue
        try:
            model = EfficientNetLite0Model.from_installed_weights()
        except ImportError:
            continue
        if record.get("weights", model.config.source_weights) != model.config.source_weights:
            continue  # another release of the package
        unfinished = output.with_name(f".{output.name}.unfinished")
        logging.disable_progress_bar()
        model.save_pretrained(unfinished)
        logging.enable_progress_bar()
        (unfinished / "model.safetensors").chmod(0o644)  # was readable by the owner only, which breaks web servers
        write_checksums(unfinished)
        unfinished.rename(output)
        made.append(output)
    return made
