"""The MMP model as a transformers model: importing this package registers it with the Auto classes."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

from .configuration_mmp import MMPConfig
from .export_mmp import export_onnx, export_text_tower, export_video_tower
from .losses_mmp import MMPObjective, nce_loss, triplet_loss
from .modeling_mmp import MMPModel
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
    "TextToVideoRetrievalPipeline",
    "VideoIndex",
    "export_onnx",
    "export_text_tower",
    "export_video_tower",
    "nce_loss",
    "triplet_loss",
]

# With the package installed, AutoModel & co. load MMP checkpoints without trusting remote code ...
AutoConfig.register(MMPConfig.model_type, MMPConfig, exist_ok=True)
AutoModel.register(MMPConfig, MMPModel, exist_ok=True)
AutoFeatureExtractor.register(MMPConfig, MMPFeatureExtractor, exist_ok=True)
AutoProcessor.register(MMPConfig, MMPProcessor, exist_ok=True)

# ... and `save_pretrained` puts this code beside the weights, for those who do not have it.
MMPConfig.register_for_auto_class()
MMPModel.register_for_auto_class("AutoModel")
MMPFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
MMPProcessor.register_for_auto_class("AutoProcessor")
