"""Configuration of EfficientNet-Lite0, the image network of the embedded demo."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class EfficientNetLite0Config(PreTrainedConfig):
    """Of an [`EfficientNetLite0Model`]; the network itself is fixed.

    Args:
        source_weights (`str`, *optional*): `digest_of_weights` of the checkpoint before its batch norms were folded,
            see `provenance_mmp`. Folding may round differently on another machine; this does not.
    """

    model_type = "efficientnet_lite0"

    source_weights: str | None = None
