"""A request as guardrails read it: its texts, and the body again with what became of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from twisted_gateway.errors import StrayFrame
from twisted_gateway.exchange import Call
from twisted_gateway.formats import bodies
from twisted_gateway.formats.slots import Slot, Texts, text_of, twins
from twisted_gateway.policies.guardrails.judging import INLINE, Board, Member, fields

READ_INLINE = 256 * 1024
"""Bytes of a request that are read at once; more than that is read in a thread."""

_encode = msgspec.json.Encoder().encode


class Reading:
    """What there is to look at in a request.

    `originals` are the texts that members who only take notes look at, before anybody has changed one. `ambiguous`: a
    provider might read something else in the body than we do, so that it is to be sent what we have read.
    """

    def __init__(self, call: Call, texts: Texts, board: Board, watching: Sequence[Member]) -> None:
        self._found: Mapping[str, Any] = call.extra  # what the format took the body apart into
        names = _names(call, texts)
        self._document = {name: _decoded(bytes(self._found[name])) for name in names}
        self.slots: list[Slot] = texts.asked(self._document)
        self.bracketed = tuple(text for slot in self.slots if "[" in (text := text_of(slot)))
        """Texts that may hold a placeholder already."""
        self.ambiguous = bool(board.members) and any(map(self._is_ambiguous, names))
        self.originals = {member: fields(member.sees(self.slots)) for member in watching}
        self.large = size(call, texts) > INLINE or any(
            sum(map(len, found)) > INLINE for found in self.originals.values()
        )

    def written(self) -> bytes:
        """The body with its texts as they are now; other members keep their bytes."""
        found: dict[str, Any] = dict(self._found)
        for name, value in self._document.items():
            found[name] = _encode(value)
        return bodies.joined(found)

    def _is_ambiguous(self, name: str) -> bool:
        value = self._document[name]
        return not isinstance(value, str) and twins(value, bytes(self._found[name]))


def size(call: Call, texts: Texts) -> int:
    """Bytes of those members of a request that hold texts."""
    return sum(len(bytes(call.extra[name])) for name in _names(call, texts))


def _names(call: Call, texts: Texts) -> list[str]:
    return [name for name in call.extra if name.lower() in texts.members]  # some parsers do not care for case


def _decoded(raw: bytes) -> Any:
    """A member; one that cannot be read is taken as a text."""
    try:
        return bodies.read(raw)[0]
    except StrayFrame:
        return raw.decode("utf-8", "replace")
