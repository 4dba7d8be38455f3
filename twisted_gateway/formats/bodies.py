"""JSON bodies of whatever dialect: read member by member, sent on with few edits (`streaming.md` 2 and 3).

A body is taken apart into its top-level members, whose bytes are kept: order, unknown members and the spelling of
numbers survive, and a member that is written twice is sent on once, as it was understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

import msgspec

from twisted_gateway.errors import Problem, Refused, StrayFrame, bad_request, undecodable
from twisted_gateway.exchange import Call, Headers, Target

T = TypeVar("T")
Members = dict[str, msgspec.Raw]

INVALID = "invalid JSON request body"
IMAGE_BYTES = 4 * 85
"""What a picture counts in an estimate: 85 tokens (`streaming.md` 14.2)."""
_JSON_TYPE = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)
_WHERE = re.compile(r" - at `\$(?:\[\.\.\.\])?\.?(.*)`$")
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)
"""Escapes in JSON strings; the group is half a surrogate pair, of which some servers send one in each chunk."""
_MISSING = object()
_members_decoder = msgspec.json.Decoder(Members)
_decoder = lru_cache(64)(msgspec.json.Decoder)
"""A decoder of a type: making one costs more than most of what it decodes."""
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def refuse(detail: str, param: str | None = None) -> NoReturn:
    """Raise the 400 of a bad body. `param` says where in the body, when known."""
    problem = bad_request(detail)
    if param:
        problem = Problem(status=400, type=problem.type, message=problem.message, param=param, kind=problem.kind)
    raise Refused(problem)


def members(body: bytes, headers: Headers) -> Members:
    """The top-level members of a JSON body, undecoded. Raises `Refused` unless it is a UTF-8 JSON object."""
    kind = headers.get("content-type")
    if kind != "application/json" and (kind is None or _JSON_TYPE.fullmatch(kind.strip()) is None):
        refuse(INVALID)
    if body.startswith(b"\xef\xbb\xbf"):
        body = body[3:]
    try:
        if not body.isascii():
            body.decode("utf-8")
        return _members_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        refuse(INVALID)


def call(body: bytes, headers: Headers, measured: Callable[[Members], int]) -> Call:
    """The call in a body of Messages or Responses; raises `Refused` with the 400s of `streaming.md` section 2.

    `measured` gives the UTF-8 bytes of the text the model will read.
    """
    found = members(body, headers)
    model = plain(found.get("model"))
    if not isinstance(model, str):
        refuse("`model` field missing", "model")
    stream = plain(found.get("stream"))
    if stream is not None and not isinstance(stream, bool):
        del found["stream"]  # ignored, also by the provider
    return Call(model=model, stream=stream is True, body=body, prompt_bytes=measured(found), extra=found)


def member(found: Members, name: str, kind: type[T] | Any, default: Any = _MISSING) -> Any:
    """One member, decoded as `kind`. Raises `Refused` naming the member when it is missing or of another type."""
    raw = found.get(name)
    if raw is None:
        if default is _MISSING:
            refuse(INVALID, name)
        return default
    try:
        return _decoder(kind).decode(raw)  # type: ignore[arg-type]
    except msgspec.ValidationError as error:
        where = _WHERE.search(str(error))
        inner = where[1] if where else ""
        refuse(INVALID, name + (inner if inner.startswith("[") else f".{inner}" if inner else ""))
    except (msgspec.DecodeError, RecursionError):
        refuse(INVALID, name)


def plain(raw: msgspec.Raw | bytes | None) -> Any:
    """The value of a member, None where there is none or it cannot be read."""
    if raw is None:
        return None
    try:
        return _decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None


def inner_members(raw: msgspec.Raw | bytes | None) -> Members | None:
    """The members of a member that is an object, else None."""
    if raw is None or bytes(raw)[:1] != b"{":
        return None
    try:
        return _members_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None


def text_bytes(raw: bytes) -> int:
    """UTF-8 bytes of a JSON string, given with its quotes."""
    if b"\\" not in raw:
        return max(0, len(raw) - 2)
    try:
        return len(msgspec.json.decode(raw, type=str).encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return len(raw)


def size(text: Any) -> int:
    """UTF-8 bytes of a text; 0 for anything else."""
    if not isinstance(text, str):
        return 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def edit(found: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """The members for an attempt, as JSON: model, renames, temperature, default fields (`streaming.md` section 3)."""
    made: dict[str, Any] = dict(found)
    wishes = target.model.provider_key.request
    made["model"] = _encode(target.upstream_model)
    for source, name in (wishes.param_renames or {}).items():
        if source in made and source != name:
            made = _renamed(made, source, name)
    if "temperature" in made and wishes.param_constraints is not None:
        _clamp(made, wishes.param_constraints)
    for name, value in (wishes.default_body_fields or {}).items():
        made.setdefault(name, _encode(value))
    return made


def joined(found: Mapping[str, Any]) -> bytes:
    """The object that has these members, whose values are JSON."""
    members: list[bytes] = []
    for name, raw in found.items():
        members += (_encode(name), b":", raw, b",")
    return b"".join((b"{", *members[:-1], b"}"))


def _renamed(found: dict[str, Any], source: str, name: str) -> dict[str, Any]:
    """`source` called `name`, in its place; an older member of that name gives way."""
    value = found[source]
    return {
        (name if key == source else key): (value if key == source else old) for key, old in found.items() if key != name
    }


def _clamp(found: dict[str, Any], bounds: Any) -> None:
    value = plain(found["temperature"])
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    low, high = bounds.temperature_min, bounds.temperature_max
    clamped = max(value, low) if low is not None else value
    clamped = min(clamped, high) if high is not None else clamped
    if clamped != value:
        found["temperature"] = _encode(clamped)


def read(data: bytes) -> tuple[Any, bytes]:
    """JSON and its bytes, broken UTF-8 and halves of surrogate pairs replaced; raises `StrayFrame` for all else."""
    try:
        return _decode(data), data
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        data = _ESCAPE.sub(_paired, data.decode("utf-8", "replace").encode())
        try:
            return _decode(data), data
        except (msgspec.DecodeError, RecursionError) as error:
            raise StrayFrame(str(error)) from None


def first_object(data: bytes, stream: bool) -> dict[str, Any] | Problem | bool:
    """The object in a first event; else False for noise, which only a stream may have, or what is wrong with it."""
    if stream and (data[:1] not in (b"{", b"[") or data == b"[DONE]"):
        return False
    try:
        answer, _ = read(data)
    except StrayFrame as stray:
        return undecodable(str(stray))
    if isinstance(answer, dict):
        return answer
    return False if stream else undecodable("not a JSON object")


def _paired(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape[1] else escape[0]
