"""The MMP model, the paper's two video networks and the index of embedded videos: what is uploaded with every model.

In: token ids and features of seconds (or files that hold them). Out: embeddings in one space, losses, hits of a search.
Nothing here imports another room.

Using any name of this package registers the model with the Auto classes of transformers, so that `AutoModel` loads it
without `trust_remote_code`, and tells `save_pretrained` to put this code next to the weights. Importing the package
alone imports neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration_mmp import MMPConfig
    from .configuration_r2plus1d import R2Plus1DConfig
    from .configuration_s3d import S3DConfig
    from .export_mmp import export_onnx, export_text_tower, export_video_tower
    from .losses_mmp import MMPObjective, nce_loss, triplet_loss
    from .modeling_mmp import MMPModel
    from .modeling_r2plus1d import R2Plus1DModel
    from .modeling_s3d import S3DModel
    from .outputs_mmp import MMPOutput
    from .pipeline_mmp import TextToVideoRetrievalPipeline
    from .processing_mmp import MMPFeatureExtractor, MMPProcessor
    from .video_index_mmp import VideoIndex

_HOMES = {
    "MMPConfig": "configuration_mmp",
    "MMPFeatureExtractor": "processing_mmp",
    "MMPModel": "modeling_mmp",
    "MMPObjective": "losses_mmp",
    "MMPOutput": "outputs_mmp",
    "MMPProcessor": "processing_mmp",
    "R2Plus1DConfig": "configuration_r2plus1d",
    "R2Plus1DModel": "modeling_r2plus1d",
    "S3DConfig": "configuration_s3d",
    "S3DModel": "modeling_s3d",
    "TextToVideoRetrievalPipeline": "pipeline_mmp",
    "VideoIndex": "video_index_mmp",
    "export_onnx": "export_mmp",
    "export_text_tower": "export_mmp",
    "export_video_tower": "export_mmp",
    "nce_loss": "losses_mmp",
    "triplet_loss": "losses_mmp",
}
__all__ = [
    "MMPConfig",
    "MMPFeatureExtractor",
    "MMPModel",
    "MMPObjective",
    "MMPOutput",
    "MMPProcessor",
    "R2Plus1DConfig",
    "R2Plus1DModel",
    "S3DConfig",
    "S3DModel",
    "TextToVideoRetrievalPipeline",
    "VideoIndex",
    "export_onnx",
    "export_text_tower",
    "export_video_tower",
    "nce_loss",
    "triplet_loss",
]
_registered = False


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    _register()
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register() -> None:
    """Tell transformers which classes belong to which configuration, and which of them `save_pretrained` copies."""
    global _registered
    if _registered:
        return
    _registered = True
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

    from .configuration_mmp import MMPConfig
    from .configuration_r2plus1d import R2Plus1DConfig
    from .configuration_s3d import S3DConfig
    from .modeling_mmp import MMPModel
    from .modeling_r2plus1d import R2Plus1DModel
    from .modeling_s3d import S3DModel
    from .processing_mmp import MMPFeatureExtractor, MMPProcessor

    for config_class, model_class in ((MMPConfig, MMPModel), (R2Plus1DConfig, R2Plus1DModel), (S3DConfig, S3DModel)):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModel.register(config_class, model_class, exist_ok=True)
        config_class.register_for_auto_class()
        model_class.register_for_auto_class("AutoModel")
    AutoFeatureExtractor.register(MMPConfig, MMPFeatureExtractor, exist_ok=True)
    AutoProcessor.register(MMPConfig, MMPProcessor, exist_ok=True)
    MMPFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
    MMPProcessor.register_for_auto_class("AutoProcessor")
