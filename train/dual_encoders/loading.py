"""Which adapter a name needs: a dual encoder of transformers, one of sentence-transformers, or a pair of towers."""

from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import cached_file

from polyvid.dataset_scripts.hub import check_source
from polyvid.modeling.configuration_mmp import MMPConfig
from polyvid.train.dual_encoders.frames import FrameRule
from polyvid.train.dual_encoders.models import DualEncoder, VideoDualEncoder
from polyvid.train.dual_encoders.sentence_models import PAIR, PairedDualEncoder, SentenceDualEncoder

FAMILIES: dict[str, type[DualEncoder]] = {
    **dict.fromkeys(("clip", "siglip", "siglip2", "metaclip_2", "altclip", "chinese_clip"), DualEncoder),
    **dict.fromkeys(("xclip", "videoprism"), VideoDualEncoder),
}
"""`model_type` of a configuration → its adapter."""


def is_dual_encoder(name: str) -> bool:
    """Whether a folder or Hub id holds a model of `FAMILIES` or of sentence-transformers, or names a pair of towers.

    Raises:
        FileNotFoundError: for a path at which there is nothing.
    """
    if is_pair(name):
        return True
    check_source(name, "model")
    kind = _model_type(name)
    return kind in FAMILIES or (kind != MMPConfig.model_type and _has_modules(name))


def is_pair(name: str) -> bool:
    """Whether a name is that of a text tower and that of an image tower, joined by a plus."""
    return PAIR in name and not Path(name).exists()


def adapter_of(name: str) -> tuple[PreTrainedConfig | None, type[DualEncoder]]:
    """The adapter of a dual encoder, and its configuration if it is one of transformers."""
    if is_pair(name):
        return None, PairedDualEncoder
    if (kind := _model_type(name)) in FAMILIES:
        return AutoConfig.from_pretrained(name), FAMILIES[str(kind)]
    return None, SentenceDualEncoder


def load_dual_encoder(name: str, frames: str | None, prompt: str | None, device: str | None = None) -> DualEncoder:
    """The adapter of a model.

    Args:
        name: folder or Hub id; or two, `"TEXTS+IMAGES"`.
        frames: a rule; default: as many as the model takes, or `"8 uniform"`.
        prompt: default: the query alone.
        device: default: the GPU if there is one, else the CPU.

    Raises:
        ImportError: if a package is missing.
        OSError: if the model cannot be loaded.
        PolyvidError: for a rule or a prompt that does not fit, and for towers that do not fit each other.
    """
    if is_pair(name):
        texts, _, images = name.partition(PAIR)
        check_source(texts, "model of texts")
        check_source(images, "model of images")
        rule = FrameRule.parse(frames) if frames else FrameRule(8, False)
        seeing = load_dual_encoder(images, frames, None, device)
        return PairedDualEncoder(texts, seeing, rule, prompt or "{}", device)
    config, family = adapter_of(name)
    own = config.vision_config.num_frames if config is not None and family is VideoDualEncoder else 8
    rule = FrameRule.parse(frames) if frames else FrameRule(own, False)
    return family(name, rule, prompt or "{}", device)


def _model_type(name: str) -> str | None:
    try:
        return PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    except OSError:  # it is not there: whoever loads it says so better
        return None


def _has_modules(name: str) -> bool:
    """Whether it is a model of sentence-transformers."""
    try:
        return cached_file(name, "modules.json", _raise_exceptions_for_missing_entries=False) is not None
    except OSError:
        return False
