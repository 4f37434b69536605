"""A model folder with pickled weights, which could run any program: refused in one line wherever a model is loaded."""

import os

import pytest
import torch
from transformers import AutoModel, ConvNextConfig, ConvNextModel, MarianConfig, MarianMTModel
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

from polyvid.dataset_scripts.translate import Translator
from polyvid.modeling import MMPModel, VideoIndex
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.frame_encoders_mmp import load_frame_encoder
from polyvid.train.errors import explain
from polyvid.train.loading import load_model
from polyvid.train.loop.starting_model import build_model
from polyvid.train.recipe import ModelRecipe
from tiny import tiny_model, tiny_processor


class Program:
    def __init__(self, sign):
        self.sign = sign

    def __reduce__(self):
        return (os.mkdir, (self.sign,))


@pytest.fixture
def pickled(tmp_path):
    """Makes a folder's weights a pickle that leaves a sign when it is unpickled."""
    sign = tmp_path / "a program was run"

    def change(model):
        folder = tmp_path / "model"
        model.save_pretrained(folder)
        (folder / "model.safetensors").unlink()
        torch.save(Program(str(sign)), folder / "pytorch_model.bin")
        return folder

    yield change
    assert not sign.exists()


def refused(load, *arguments, **named) -> None:
    with pytest.raises(PolyvidError) as caught:
        load(*arguments, **named)
    line = explain(caught.value)
    assert "pytorch_model.bin is a pickle, which could run any program, so it is not read: " in line, line


@pytest.mark.parametrize("load", [AutoModel.from_pretrained, MMPModel.from_pretrained, load_model], ids=repr)
def test_of_a_model_of_this_package(pickled, load):
    folder = pickled(tiny_model())
    tiny_processor().save_pretrained(folder)
    refused(load, str(folder))


def test_of_the_model_that_starts_a_training(pickled):
    refused(build_model, ModelRecipe(init_from=str(pickled(tiny_model()))))


def test_of_the_model_of_an_index(pickled, tmp_path):
    VideoIndex(torch.eye(8), map(str, range(8))).save(tmp_path / "videos.safetensors")
    folder = pickled(tiny_model())
    refused(VideoIndex.load(tmp_path / "videos.safetensors", model=str(folder)).search, "a dog")


def test_of_a_text_backbone(pickled):
    refused(MMPModel.from_backbone, str(pickled(tiny_model().text_model)), output_layer=3, freeze_below=2)


def test_of_an_image_encoder(pickled):
    folder = pickled(ConvNextModel(ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1])))
    VideoMAEImageProcessorPil().save_pretrained(folder)
    refused(load_frame_encoder, str(folder))


def test_of_a_translator(pickled):
    shape = dict(vocab_size=64, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1)
    shape |= dict(decoder_attention_heads=1, encoder_ffn_dim=8, decoder_ffn_dim=8, pad_token_id=0)
    folder = pickled(MarianMTModel(MarianConfig(**shape)))
    tiny_processor().tokenizer.save_pretrained(folder)
    refused(Translator, str(folder), "de")


def test_what_pytorch_refuses_to_unpickle_is_one_line(tmp_path):
    """On the Hub, where a translator may have no other weights."""
    torch.save(Program(str(tmp_path / "sign")), tmp_path / "pytorch_model.bin")
    with pytest.raises(Exception) as caught:
        torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    assert "could run any program: not read" in explain(caught.value)
    assert not (tmp_path / "sign").exists()


def test_safetensors_next_to_a_pickle_are_read(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    torch.save(Program(str(tmp_path / "sign")), tmp_path / "pytorch_model.bin")
    MMPModel.from_pretrained(tmp_path)
    assert not (tmp_path / "sign").exists()
