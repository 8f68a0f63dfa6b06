"""Templates to text. Autoescaping is always on and a name a template misspells is an error, never an empty place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bundles import __version__
from control_plane.web import wording
from control_plane.web.assets import Assets
from control_plane.web.bars import bar

TEMPLATES = Path(__file__).parent / "templates"


class Renderer:
    """Renders templates by name.

    Args:
        assets: where templates find the addresses of static files.
    """

    def __init__(self, assets: Assets) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            tone=wording.tone,
            words=wording.words,
            span=wording.span,
            ago=wording.ago,
            until=wording.until,
            utc=wording.utc,
            number=wording.number,
            short=wording.short,
        )
        self._environment.globals.update(asset=assets.url, bar=bar, product_version=__version__)

    def render(self, template: str, values: dict[str, Any]) -> str:
        """Return ``template`` filled with ``values``."""
        return self._environment.get_template(template).render(values)
