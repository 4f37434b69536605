"""Configuration of the R(2+1)D video network."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .errors_mmp import PolyvidError


@strict
class R2Plus1DConfig(PreTrainedConfig):
    """Shape of an [`R2Plus1DModel`]; the defaults are the 34-layer network of IG65M (Ghadiyaram et al. 2019).

    Args:
        num_frames (`int`): consecutive frames of a window at 30 fps: 8 or 32, as the checkpoint was trained.
        image_size (`int`): height and width of a frame.
        depths (`list[int]`), hidden_sizes (`list[int]`): blocks and output channels of each stage.
        batch_norm_eps (`float`): 1e-3, as in Caffe2, where the weights come from.
    """

    model_type = "r2plus1d"

    num_frames: int = 8
    image_size: int = 112
    depths: list[int] | tuple[int, ...] = (3, 4, 6, 3)
    hidden_sizes: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    batch_norm_eps: float = 1e-3

    def validate_architecture(self) -> None:
        if len(self.depths) != 4 or len(self.hidden_sizes) != 4:
            raise PolyvidError(f"R(2+1)D has four stages, got depths={self.depths}, hidden_sizes={self.hidden_sizes}.")
