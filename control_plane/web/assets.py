"""Static files under names that carry their digest, so that browsers keep them for ever and never a stale one.

Read once, when the router is made; nothing outside the folder can be reached because only names read then are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bundles.digest import sha256_hex

STATIC = Path(__file__).parent / "static"
PREFIX = "/static"
DIGITS = 16
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Asset:
    """One file as it is served."""

    name: str
    content: bytes
    media_type: str
    digest: str


class Assets:
    """Every servable file below a folder; licences and checksums lie there too and are not served.

    Args:
        folder: where the files are.
    """

    def __init__(self, folder: Path = STATIC) -> None:
        self._assets: dict[str, Asset] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix in _TYPES:
                content, name = path.read_bytes(), path.relative_to(folder).as_posix()
                self._assets[name] = Asset(name, content, _TYPES[path.suffix], sha256_hex(content)[:DIGITS])

    def url(self, name: str) -> str:
        """Return the address of the file ``name``; a template that names no file raises ``KeyError``."""
        return f"{PREFIX}/{self._assets[name].digest}/{name}"

    def find(self, digest: str, name: str) -> Asset | None:
        """Return the file served at an address of ``url``, None where there is none with that content."""
        asset = self._assets.get(name)
        return asset if asset is not None and asset.digest == digest else None
