"""What real providers sent: the items of `shared/streams`, which lies beside the checkout and is not part of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest

from .cutting import cuts

__all__ = ["Recording", "cuts", "each_recording", "needs_streams", "recordings", "shared_streams"]

ROOT = Path(__file__).resolve().parents[2]
Kind = Literal["stream", "json", "error"]


def shared_streams() -> Path | None:
    """The folder of recordings, if there is one."""
    folder = ROOT.parent / "shared" / "streams"
    return folder if folder.is_dir() else None


needs_streams = pytest.mark.skipif(shared_streams() is None, reason="../shared/streams is not beside the checkout")
"""For tests that read recordings."""


@attrs.frozen
class Recording:
    """One item: what was sent, and in `expect` (the whole NAME.expect.json) what the official SDK read in it."""

    name: str
    folder: Path
    expect: dict[str, Any] = attrs.field(repr=False)

    @property
    def kind(self) -> Kind:
        """Whether the body is a stream, JSON or an HTTP error."""
        kind: Kind = self.expect["kind"]
        return kind

    @property
    def read(self) -> dict[str, Any]:
        """What the SDK read: text, tool calls, finish reason, usage ... (`expect` in the file); empty if nothing."""
        return self.expect.get("expect") or {}

    @property
    def body(self) -> bytes:
        """The body, byte for byte."""
        return (self.folder / str(self.expect["body_file"])).read_bytes()

    @property
    def status(self) -> int:
        """The HTTP status; an item that names none is a good answer."""
        return self.expect.get("status") or 200

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The response headers that were kept."""
        return [(name, value) for name, value in self.expect.get("headers") or []]

    @property
    def request(self) -> dict[str, Any] | None:
        """The request that was answered (method, path, body), where it was recorded."""
        path = self.folder / f"{self.name}.request.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    @property
    def categories(self) -> frozenset[str]:
        """The tags of the item."""
        return frozenset(self.expect.get("categories") or [])


def recordings(folder: str = "*", kind: Kind | None = None, protocol: str | None = None) -> list[Recording]:
    """The items of a folder (default: of all), by name; none where there are no recordings."""
    root = shared_streams()
    paths = sorted(root.glob(f"{folder}/*.expect.json")) if root else []
    items = [Recording(path.name.removesuffix(".expect.json"), path.parent, _document(path)) for path in paths]
    return [item for item in items if kind in (None, item.kind) and protocol in (None, item.expect["protocol"])]


def _document(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document


def each_recording(folder: str = "*", kind: Kind | None = None, protocol: str | None = None) -> pytest.MarkDecorator:
    """Runs a test once for each item, given as `recording`; skipped where there are no recordings."""
    items = recordings(folder, kind, protocol)
    missing = pytest.param(None, marks=needs_streams, id="none")
    return pytest.mark.parametrize(
        "recording", [pytest.param(item, id=item.name) for item in items] if shared_streams() else [missing]
    )
