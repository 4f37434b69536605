"""`polyvid convert-backbone`: turns an official checkpoint into a Hub repository that `AutoModel` loads."""

import hashlib
import shutil
from pathlib import Path
from typing import Annotated

import typer
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

from polyvid.dataset_scripts.locking import locked
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.frame_encoders_mmp import NETWORKS, family_of
from polyvid.modeling.official_checkpoint import find_official_checkpoint


def convert_backbone(
    checkpoint: Annotated[str, typer.Argument(help="r2plus1d_34_clip8_ig65m, ..., s3d_howto100m, a .pth file or URL.")],
    output: Annotated[Path, typer.Argument(help="Folder to create.")],
    num_frames: Annotated[int | None, typer.Option(help="Frames per window, if not the usual 8, 32 or 30.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Expected checksum of the checkpoint.")] = None,
    repo: Annotated[str, typer.Option(help="Hub id for the example in the card.")] = "",
) -> None:
    """Convert an official R(2+1)D or S3D checkpoint: safetensors, configuration, code, processor and card."""
    temporary = output.with_name(f".{output.name}.incomplete")
    with locked(output, "polyvid convert-backbone"):
        shutil.rmtree(temporary, ignore_errors=True)  # left over from a killed run
        try:
            model, digest = _convert(checkpoint, output, temporary, num_frames, sha256, repo)
        except SafetensorError as error:  # such as a full disk
            raise OSError(
                f"Could not write {output} ({error}). Nothing was left there: free space and run again."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    typer.echo(
        f"{output}: {type(model).__name__}, {model.num_parameters():,} parameters, sha256 of its source {digest}"
    )


def _convert(
    checkpoint: str, output: Path, temporary: Path, num_frames: int | None, sha256: str | None, repo: str
) -> tuple[PreTrainedModel, str]:
    """The converted model, and the sha256 of the checkpoint. It is saved to `temporary`, which becomes `output`."""
    if output.exists() and any(output.iterdir()):
        raise PolyvidError(f"{output} exists and is not empty: remove it or give another folder.")
    if (family := family_of(checkpoint)) is None:
        raise PolyvidError(f"{checkpoint} is not an official checkpoint: give its name, a .pth file or a URL.")
    network = NETWORKS[family]
    options = {} if num_frames is None else {"num_frames": num_frames}
    model = network.model_class.from_official_checkpoint(checkpoint, sha256=sha256, **options)
    model.save_pretrained(temporary)
    for weights in temporary.glob("*.safetensors"):
        weights.chmod(0o644)  # written as readable by the owner only, but others may serve or copy it
    VideoMAEImageProcessorPil(**network.preprocessing).save_pretrained(temporary)
    path = find_official_checkpoint(network.checkpoints.get(checkpoint, checkpoint))
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    card = Path(__file__).with_name(f"{family}.md").read_text(encoding="utf-8")
    values = {"num_frames": model.config.num_frames, "source": path.name, "sha256": digest, "repo": repo or output.name}
    for key, value in values.items():
        card = card.replace(f"{{{key}}}", str(value))
    (temporary / "README.md").write_text(card, encoding="utf-8")
    if output.exists():
        output.rmdir()
    temporary.rename(output)
    return model, digest
