"""Reads queries with torch alone, where that is known to give what the model itself gives.

Most of the time of a search in a warm index is the import of transformers. The text tower of most models is a plain
Transformer, which takes a page to write down. That page is trusted for a model only after both were compared on texts
in many scripts, token by token and number by number; the outcome is kept in the user's cache folder, for just these
files and versions. Other models are loaded as ever.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.nn import functional as F

from polyvid.modeling.paths_mmp import is_local_path
from polyvid.modeling.video_index_mmp import VideoIndex
from polyvid.train.search import query_tokens
from polyvid.train.search.query_tokens import QueryTokens
from polyvid.train.search.sources import cache_folder

WEIGHTS = "model.safetensors"
FILES = ("config.json", WEIGHTS, "processor_config.json", "tokenizer.json", "tokenizer_config.json")
PACKAGES = ("polyvid", "tokenizers", "torch", "transformers")
ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}
BACKBONE_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attended": "attention.output.dense",
    "attended_norm": "attention.output.LayerNorm",
    "expanded": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
POOLING_LAYER = {
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
    "attended": "attention.out_proj",
    "attended_norm": "attention_norm",
    "expanded": "intermediate",
    "output": "output",
    "output_norm": "output_norm",
}
SAMPLES = (
    "a slice of pizza",
    "Ein Stück Käsekuchen, GRÖSSER als 3,5 cm!",
    "un garçon lit à l'école",
    "příliš žluťoučký kůň",
    "一个人在做饭",
    "собака бежит по снегу",
    "một người phụ nữ đang nấu ăn",
    "mtoto anacheza mpira",
    "¿dónde está el niño?",
    "قطة نائمة",
    "बिल्ली सो रही है",
    "ピザを一切れ ｆｕｌｌｗｉｄｔｈ",
    "🍕 and 👩🏽‍🚀",
    "cafe\u0301\ttabs  and   spaces\nlines",
    "<s> </s> <pad> <mask> [CLS]",
    "\u16a0\u16a2\u16a6",
    "word " * 700,
)
"""Scripts, letters with and without composition, signs, special tokens, unknown letters, a text that is cut."""
TOLERANCE = 1e-4
"""Of an embedding with length 1: arithmetic in another order moves it by 1e-6."""


class _Unfit(ValueError):
    """A model that is not the plain Transformer of this file."""


class TextTower:
    """The text tower of a model, in place of the model and of its processor, for `VideoIndex.read_queries_with`.

    Args:
        folder: of the model.

    Attributes:
        positions: tokens of the longest text that the model can embed.

    Raises:
        _Unfit: if the model is of another architecture or kept in another form.
        KeyError, OSError, SafetensorError, TypeError, ValueError: if the files are not as expected.
    """

    def __init__(self, folder: Path):
        config = _read_json(folder / "config.json")
        text, processor = config["text_config"], _read_json(folder / "processor_config.json")
        tokenizer = _read_json(folder / "tokenizer_config.json")
        if text["model_type"] not in ("bert", "roberta", "xlm-roberta") or text["hidden_act"] not in ACTIVATIONS:
            raise _Unfit
        with safe_open(folder / WEIGHTS, "pt") as file:
            names = [name for name in file.keys() if name.startswith("text_")]
            self._weights: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in names}
        self._unused = set(names)
        self._activation = ACTIVATIONS[text["hidden_act"]]
        self._heads, self._pooling_heads = text["num_attention_heads"], config["pooler_num_heads"]
        self._epsilon, self._layers = text["layer_norm_eps"], text["num_hidden_layers"]
        self._pooling_layers = config["pooler_num_layers"]
        # The first position is 0 in BERT; in its successors, positions follow the id that pads.
        self._padding = None if text["model_type"] == "bert" else text["pad_token_id"]
        self.name_or_path = str(folder)
        self.config = SimpleNamespace(video_encoders=config.get("video_encoders"), embed_dim=config["embed_dim"])
        self.tokenizer = QueryTokens(folder / "tokenizer.json", tokenizer.get("unk_token", "<unk>"))
        self.positions = len(self._weights["text_model.embeddings.position_embeddings.weight"])
        if self._padding is not None:
            self.positions -= self._padding + 1
        self._longest = min(processor["max_text_length"], tokenizer.get("model_max_length") or 1 << 30)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str], processor: Any = None) -> torch.Tensor:
        """c_x as `MMPModel.encode_texts` gives it: (texts, embed_dim) float32."""
        return torch.stack([self._embed(torch.tensor(self.tokenizer.ids(text, self._longest))) for text in texts])

    def uses_all_weights(self) -> bool:
        """Whether nothing of the model was left out; known once a text was embedded."""
        return not self._unused

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        """(tokens,) -> (embed_dim,)"""
        of = "text_model.embeddings."
        positions = torch.arange(len(ids))
        if self._padding is not None:
            real = (ids != self._padding).long()
            positions = real.cumsum(0) * real + self._padding
        hidden = self._weight(f"{of}word_embeddings.weight")[ids].float()
        hidden = hidden + self._weight(f"{of}token_type_embeddings.weight")[0]
        hidden = hidden + self._weight(f"{of}position_embeddings.weight")[positions]
        hidden = self._norm(hidden, f"{of}LayerNorm", self._epsilon)
        for depth in range(self._layers):
            of = f"text_model.encoder.layer.{depth}."
            names = {part: of + name for part, name in BACKBONE_LAYER.items()}
            hidden = self._layer(hidden, hidden, names, self._heads, self._activation, self._epsilon)
        if "text_projection.weight" in self._weights:
            hidden = self._linear(hidden, "text_projection")
        for depth in range(self._pooling_layers):  # as `MMPPoolingHead`
            names = {part: f"text_pooler.layers.{depth}.{name}" for part, name in POOLING_LAYER.items()}
            query = hidden[:1] if depth == self._pooling_layers - 1 else hidden
            hidden = self._layer(query, hidden, names, self._pooling_heads, F.relu, 1e-5)
        return hidden[0]

    def _layer(
        self,
        query: torch.Tensor,
        key_value: torch.Tensor,
        names: Mapping[str, str],
        heads: int,
        activation: Any,
        eps: float,
    ) -> torch.Tensor:
        """One post-norm layer: (tokens, width) of both -> (tokens of `query`, width)."""
        q, k, v = (
            self._linear(hidden, names[part]).unflatten(-1, (heads, -1)).transpose(0, 1)[None]
            for part, hidden in (("query", query), ("key", key_value), ("value", key_value))
        )  # (1, heads, tokens, width of a head)
        attended = F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1)
        hidden = self._norm(query + self._linear(attended, names["attended"]), names["attended_norm"], eps)
        expanded = activation(self._linear(hidden, names["expanded"]))
        return self._norm(hidden + self._linear(expanded, names["output"]), names["output_norm"], eps)

    def _weight(self, name: str) -> torch.Tensor:
        self._unused.discard(name)
        return self._weights[name]

    def _linear(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(hidden, self._weight(f"{name}.weight").float(), self._weight(f"{name}.bias").float())

    def _norm(self, hidden: torch.Tensor, name: str, eps: float) -> torch.Tensor:
        weight, bias = self._weight(f"{name}.weight").float(), self._weight(f"{name}.bias").float()
        return F.layer_norm(hidden, hidden.shape[-1:], weight, bias, eps)


def known_tower(index: VideoIndex) -> TextTower | None:
    """The text tower of the model that made an index, if it is known to give what the model gives."""
    folder = _folder_of(index.made_by)
    record = None if folder is None else _record_of(folder)
    if folder is None or record is None:
        return None
    try:
        if _read_json(record) != {"as_the_model": True}:
            return None
        return TextTower(folder)
    except (LookupError, OSError, SafetensorError, TypeError, ValueError):
        return None


def compare_tower(index: VideoIndex) -> None:
    """Compares the text tower of this file with the model that an index has loaded, once for each model.

    What goes wrong here is no reason to fail: the index has answered.
    """
    folder = _folder_of(index.made_by)
    record = None if folder is None else _record_of(folder)
    if folder is None or record is None or record.exists():
        return
    try:
        alike = _gives_the_same(TextTower(folder), *index.towers())
    except (LookupError, OSError, RuntimeError, SafetensorError, TypeError, ValueError):
        alike = False
    part = record.with_name(f".{record.name}.{os.getpid()}")
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"as_the_model": alike}), encoding="utf-8")
        part.replace(record)
    except OSError:
        part.unlink(missing_ok=True)


def _gives_the_same(tower: TextTower, model: Any, processor: Any) -> bool:
    for text in SAMPLES:
        if tower.tokenizer.ids(text, tower._longest) != processor(text=[text], padding=False)["input_ids"][0]:
            return False
        if len(text) < 200 and tower.tokenizer(text) != {
            "input_ids": processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        }:
            return False
    if tower.tokenizer.unk_token_id != processor.tokenizer.unk_token_id:
        return False
    texts = [text for text in SAMPLES if len(tower.tokenizer.ids(text, tower._longest)) <= tower.positions]
    ours = F.normalize(tower.encode_texts(texts), dim=-1)
    theirs = F.normalize(model.encode_texts(texts, processor), dim=-1)
    same_shape = ours.shape == theirs.shape and tower.uses_all_weights()
    return same_shape and float((ours - theirs).abs().max()) <= TOLERANCE


def _folder_of(model: str) -> Path | None:
    """The folder of a model on this machine; of the Hub's models, that in its cache."""
    if not model:
        return None
    if is_local_path(model):
        return Path(model)
    from huggingface_hub import try_to_load_from_cache  # it imports clients of the network

    found = try_to_load_from_cache(model, WEIGHTS)
    return Path(found).parent if isinstance(found, str) else None


def _record_of(folder: Path) -> Path | None:
    """Where it is kept how a comparison ended: for these files, of these sizes and times, and these versions."""
    try:
        facts: list[object] = [os.path.realpath(folder)]
        for file in (*(folder / name for name in FILES), Path(__file__), Path(query_tokens.__file__)):
            stat = file.stat()
            facts += [file.name, stat.st_size, stat.st_mtime_ns]
    except OSError:
        return None
    digest = hashlib.blake2b(json.dumps([*facts, *map(_version, PACKAGES)]).encode(), digest_size=16).hexdigest()
    return cache_folder() / "text_towers" / f"{digest}.json"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that was never installed
        return ""


def _read_json(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no object.")
    return found
