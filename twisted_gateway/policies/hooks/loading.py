"""From the boot file's entries to hooks: imported and made once, at start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import iscoroutinefunction
from typing import Any

from twisted_gateway.config.hooking import HookEntry
from twisted_gateway.facts import frozen
from twisted_gateway.hooks import HookCall, HookRecord
from twisted_gateway.named_code import named_code

METHODS = ("pre_call", "during", "post_call")


class BadHook(Exception):
    """A hook that cannot be had: the process must not start. The text names the entry and says why."""


@frozen
class Hook:
    """One hook, ready to be called: those of its methods that it has."""

    name: str
    skip: bool
    """What an exception means: go on without it, or fail this call."""
    seconds: float
    pre_call: Callable[[HookCall], Any] | None = None
    during: Callable[[HookCall], Any] | None = None
    post_call: Callable[[HookRecord], Any] | None = None

    @property
    def threaded(self) -> bool:
        """Whether its `post_call` is a plain function, which may block."""
        return self.post_call is not None and not iscoroutinefunction(self.post_call)


def load(entries: Sequence[HookEntry]) -> tuple[Hook, ...]:
    """Import and make the hooks of the boot file, in its order. Raises `BadHook` for the first that cannot be had."""
    return tuple(_loaded(entry, f"hooks[{at}].use") for at, entry in enumerate(entries))


def _loaded(entry: HookEntry, where: str) -> Hook:
    made = _made(entry, where)
    found = {name: getattr(made, name) for name in METHODS if callable(getattr(made, name, None))}
    if not found:
        raise BadHook(f"{where}: {entry.use} has none of {', '.join(METHODS[:2])} and {METHODS[2]}")
    return Hook(entry.shown, entry.on_error == "skip", entry.timeout_ms / 1000, **found)


def _made(entry: HookEntry, where: str) -> Any:
    try:
        found = named_code(entry.use)
    except ValueError as error:
        raise BadHook(f"{where}: {error}") from error
    if not callable(found):
        raise BadHook(f"{where}: {entry.use} cannot be called")
    try:
        return found(**entry.config)
    except Exception as error:
        raise BadHook(f"{where}: {entry.use} failed with its config: {_told(error)}") from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
