"""The MMP model and the paper's two video networks: importing this package registers them with the Auto classes."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

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

# With the package installed, AutoModel & co. load these checkpoints without trusting remote code, and `save_pretrained`
# puts this code beside the weights, for those who do not have it.
for config_class, model_class in ((MMPConfig, MMPModel), (R2Plus1DConfig, R2Plus1DModel), (S3DConfig, S3DModel)):
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, model_class, exist_ok=True)
    config_class.register_for_auto_class()
    model_class.register_for_auto_class("AutoModel")
AutoFeatureExtractor.register(MMPConfig, MMPFeatureExtractor, exist_ok=True)
AutoProcessor.register(MMPConfig, MMPProcessor, exist_ok=True)
MMPFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
MMPProcessor.register_for_auto_class("AutoProcessor")
