"""Finds credentials by their shape in what is about to be published.

The shapes are those that the issuers document, so that they can be found. A password that looks like a word is not
found: this is a net below the list of files, not the list itself.
"""

import re
from pathlib import Path

from polyvid.modeling.errors_mmp import PolyvidError

SHAPES = {
    "an access token of Hugging Face": rb"\bhf_[A-Za-z0-9]{30,}\b",
    "an access key of AWS": rb"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a secret key of AWS": rb"(?i)aws_secret_access_key[\"']?\s*[=:]\s*[\"']?[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])",
    "a private key": rb"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----",
    "a token of GitHub": rb"\b(?:gh[oprsu]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})\b",
    "a token of Slack": rb"\bxox[abeoprs]-[A-Za-z0-9-]{10,}|\bhooks\.slack\.com/services/T[A-Za-z0-9/]{20,}",
    "an API key of Google": rb"\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])",
    "a password in an address": rb"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@\"'<>{}$]{1,64}:[^\s/:@\"'<>{}$]{1,128}@[A-Za-z0-9]",
}
SCANNED_BYTES = 5 << 20  # nobody types a credential into a larger file

_SHAPES = {name: re.compile(shape) for name, shape in SHAPES.items()}


def refuse_credentials(folder: Path, token: str | None) -> None:
    """Check every file of a folder up to `SCANNED_BYTES`.

    Args:
        folder: what will be published.
        token: the user's own access token, which is found whatever its shape.

    Raises:
        PolyvidError: for the first credential, by file and line; it is never repeated in the message.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size <= SCANNED_BYTES:
            found = find_credential(path.read_bytes(), token)
            if found is not None:
                name, line = found
                raise PolyvidError(
                    f"{path.relative_to(folder)}, line {line}: this looks like {name}. Remove it, and revoke it if "
                    "others may have seen it."
                )


def find_credential(content: bytes, token: str | None = None) -> tuple[str, int] | None:
    """What the first credential in a file is, and in which line, from 1."""
    found = [(match.start(), name) for name, shape in _SHAPES.items() if (match := shape.search(content))]
    if token and token.encode() in content:
        found.append((content.index(token.encode()), "your access token"))
    if not found:
        return None
    start, name = min(found)
    return name, content.count(b"\n", 0, start) + 1
