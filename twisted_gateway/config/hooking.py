"""The boot file's `hooks`: an operator's own code in each call's way (`extensions.md` 7.3). Pure: nothing is run."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import attrs

from twisted_gateway.config.checks import Choice, Invalid, Parsed, Text, Whole, text
from twisted_gateway.config.readers import LONGEST_MS
from twisted_gateway.facts import frozen

BUILT_IN = ("validate_model", "guardrails", "rate_limit", "accounting")
"""The names under which our own steps are shown; they are always on and are not listed."""

_STEP = r"[^\W\d]\w*"


def read_name(value: Any) -> str:
    """Read a hook's name: a label of metrics and log lines."""
    name = Text(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "1 to 64 letters, digits, '.', '_' and '-'").read(text(value))
    if name in BUILT_IN:
        raise Invalid(f"must not be the name of a built-in step: {name}")
    return name


@frozen
class HookEntry:
    """One hook: where its code is, what it is called and made with, and what an exception of it means.

    `timeout_ms` bounds its asynchronous `pre_call`, and its `post_call`.
    """

    use: Annotated[
        str,
        Text(rf"{_STEP}(\.{_STEP})*:{_STEP}(\.{_STEP})*", 'a dotted path such as "package.module:attribute"'),
    ]
    name: Annotated[str, Parsed(read_name)] | None = None
    config: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    on_error: Annotated[str, Choice(("fail", "skip"))] = "fail"
    timeout_ms: Annotated[int, Whole(low=1, high=LONGEST_MS)] = 5000

    @property
    def shown(self) -> str:
        """Its name in logs, metrics and errors: the attribute's where none is given."""
        return self.name or self.use.partition(":")[2].rpartition(".")[2]


def repeated(hooks: Sequence[HookEntry]) -> int | None:
    """The index of the first hook whose name another one before it has."""
    names = [hook.shown for hook in hooks]
    return next((at for at, name in enumerate(names) if name in names[:at]), None)
