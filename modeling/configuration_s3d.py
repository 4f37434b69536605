"""Configuration of the S3D video network."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class S3DConfig(PreTrainedConfig):
    """Shape of an [`S3DModel`]; the network itself is fixed (Xie et al. 2018).

    Args:
        num_frames (`int`): consecutive frames of a window at 30 fps, an even number: App. C's 30, or 16, which it
            names as well; the network was trained with 32.
        image_size (`int`): height and width of a frame, even.
        embed_dim (`int`): width of the joint text-video space of MIL-NCE.
    """

    model_type = "s3d"

    num_frames: int = 30
    image_size: int = 224
    embed_dim: int = 512
