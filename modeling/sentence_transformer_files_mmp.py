"""The two files by which sentence-transformers recognises the folder of a model."""

import json
import os
from pathlib import Path

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"


def write_sentence_transformer_files(folder: str | os.PathLike[str]) -> None:
    """Makes a saved [`MMPModel`] one of sentence-transformers, too: `SentenceTransformer(folder)` loads it.

    The folder holds the module they name, `sentence_transformer_mmp.py`, with the rest of the model's code.
    """
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformer_mmp.MMPInputModule"}]
    settings = {
        "model_type": "SentenceTransformer",
        "similarity_fn_name": "cosine",
        "prompts": {},
        "default_prompt_name": None,
        "requirements": {"sentence-transformers": ">=6"},
    }
    for name, content in ((MODULES, modules), (SETTINGS, settings)):
        (Path(folder) / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
