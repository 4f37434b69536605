"""What a folder of feature shards holds, read without the code that writes it."""

from pathlib import Path

import numpy as np
from pyarrow import parquet

from polyvid.dataset_scripts.building import find_shards
from polyvid.dataset_scripts.features import features_from_row


def rows_of(folder: Path) -> dict[str, np.ndarray]:
    rows = [row for shard in find_shards(folder) for row in parquet.read_table(shard).to_pylist()]
    return {row["video_id"]: features_from_row(row) for row in rows}
