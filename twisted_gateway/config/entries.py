"""From a resources document to records, one entry at a time, collecting all that is wrong (`configuration.md` 5).

Each entry goes through: variables, identity, keys that are not available yet, `spellings` (5.4), its record's own
checks (`schema`, 5.5). An entry that fails is reported once and left out; its name still counts as defined, so that one
mistake does not become ten. Pure.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from twisted_gateway.config import guarding, unavailable
from twisted_gateway.config.checks import Lines, Path, describe, dotted, line_of, written_names
from twisted_gateway.config.interpolation import interpolated_tree
from twisted_gateway.config.report import Finding
from twisted_gateway.config.resources import (
    COLLECTIONS,
    GUARDRAIL_KINDS,
    IDENTITIES,
    RECORDS,
    Group,
    Model,
    derived_id,
)
from twisted_gateway.config.schema import Refused, misfit, structured, without_nulls
from twisted_gateway.config.spellings import DIRECT, Spellings, dangling
from twisted_gateway.facts import define

_NULL_IS_ABSENT = ("provider_keys", "api_keys")
_KNOBS = (
    *(name for name in written_names(Model) if name not in (*written_names(Group), *DIRECT)),
    *("auto_prompt_caching", "embedding"),
)
"""Keys of direct models that a group cannot use (`configuration.md` 7.2)."""


@define
class Entry:
    """One entry of a collection on its way to a record."""

    kind: str
    index: int
    raw: Any
    identity: str | None = None
    record: Any = None

    def finding(self, message: str, lines: Lines, path: Path = ()) -> Finding:
        """A report line about this entry, with the line of the path in it."""
        line = line_of((self.kind, self.index, *path), lines)
        return Finding(message, self.kind, self.index, self.identity, line)


@define
class Reading:
    """The reading of one document: what was found, entry by entry, and what is wrong with it."""

    environ: Mapping[str, str]
    lines: Lines
    entries: dict[str, list[Entry]] = attrs.field(factory=lambda: {kind: [] for kind in COLLECTIONS})
    named: dict[str, dict[str, Entry]] = attrs.field(factory=lambda: {kind: {} for kind in COLLECTIONS})
    findings: list[Finding] = attrs.field(factory=list)
    warnings: list[str] = attrs.field(factory=list)

    def read(self, document: object) -> None:
        """Read the whole document; afterwards `findings` says whether `entries` are complete."""
        if not isinstance(document, Mapping):
            self._file(f"expected a mapping, got {describe(document)}" if document is not None else "the file is empty")
            return
        self._version(document.get("_format_version"), present="_format_version" in document)
        for key in document:
            if key not in COLLECTIONS and key != "_format_version":
                self._other(key, document[key])
        for kind in COLLECTIONS:
            members = document.get(kind)
            if members is not None and not isinstance(members, list):
                self._file(f"`{kind}` must be a list, got {describe(members)}", (kind,))
            elif members:
                self.entries[kind] = [Entry(kind, index, raw) for index, raw in enumerate(members)]
        every = [entry for kind in COLLECTIONS for entry in self.entries[kind]]
        ready = [entry for entry in every if self._opened(entry)]
        for entry in ready:
            self._attempt(entry)
        self._references()
        self.findings.sort(key=self._position)

    def _position(self, finding: Finding) -> tuple[int, int]:
        return (COLLECTIONS.index(finding.kind) if finding.kind else -1, finding.index or 0)

    def _file(self, message: str, path: Path = ()) -> None:
        self.findings.append(Finding(message, line=line_of(path, self.lines)))

    def _version(self, value: Any, *, present: bool) -> None:
        path = ("_format_version",)
        if not present:
            self._file('`_format_version` is missing (expected `_format_version: "1"`)')
        elif not isinstance(value, str):
            self._file(f'`_format_version` must be the string "1", got {describe(value)}', path)
        elif value != "1":
            self._file('`_format_version` is not supported (expected "1")', path)

    def _other(self, key: Any, value: Any) -> None:
        if not isinstance(key, str):
            self._file(f"every top-level key must be a string, got {describe(key)}")
        elif key not in unavailable.COLLECTIONS:
            expected = ", ".join(("_format_version", *COLLECTIONS))
            self._file(f"unknown top-level key `{key}` (expected {expected})", (key,))
        elif value is not None and value != []:
            self._file(unavailable.refusal(key), (key,))

    def _opened(self, entry: Entry) -> bool:
        """Fill in variables and find the identity; report what is wrong with either."""
        if not isinstance(entry.raw, Mapping):
            self._report(entry, f"expected a mapping, got {describe(entry.raw)}")
            return False
        entry.raw, problems = interpolated_tree(entry.raw, self.environ)
        field = IDENTITIES.get(entry.kind, "display_name")
        name = entry.raw.get(field)
        if isinstance(name, str) and name and not any(path == (field,) for path, _ in problems):
            entry.identity = name
            self.named[entry.kind].setdefault(name, entry)
        for path, reason in problems:
            self._report(entry, f"field `{dotted(path)}`: {reason}" if path else reason, path)
        if problems:
            return False
        if entry.identity is None:
            self._report(entry, f"`{field}` is required and must be a non-empty string", (field,))
            return False
        earlier = self.named[entry.kind][entry.identity]
        if earlier is not entry:
            self._report(entry, f"`{field}` is already used by {entry.kind}[{earlier.index}]", (field,))
            return False
        return True

    def _report(self, entry: Entry, message: str, path: Path = ()) -> None:
        self.findings.append(entry.finding(message, self.lines, path))

    def _attempt(self, entry: Entry) -> None:
        try:
            entry.record = self._record(entry)
        except Refused as refused:
            self._report(entry, str(refused), refused.path)

    def _record(self, entry: Entry) -> Any:
        tree = dict(entry.raw)
        if "id" in tree:
            raise Refused("`id` is not accepted: ids are derived from names", ("id",))
        knobs = [name for name in tree if name in _KNOBS] if _is_group(entry.kind, tree) else []
        for name in knobs:
            del tree[name]
        self._built(entry.kind, tree)
        if entry.kind in _NULL_IS_ABSENT:
            tree = without_nulls(RECORDS[entry.kind], tree)
        elif (null := next((key for key in tree if tree[key] is None), None)) is not None:
            raise misfit((null,), "null is not allowed")
        Spellings(self.environ, self.named, self.warnings).rewrite(entry.kind, tree)
        assert entry.identity is not None
        tree["id"] = derived_id(entry.kind, entry.identity)
        shape = Group if _is_group(entry.kind, tree) else RECORDS[entry.kind]
        record = structured(entry.kind, tree, shape, [*written_names(shape)])
        if knobs:
            names = ", ".join(f"`{name}`" for name in knobs)
            raise Refused(f"{names} not accepted on a model group", (knobs[0],))
        if entry.kind == "guardrails":
            self._together(record)
        if entry.kind == "rate_limit_policies" and record.warning:
            self.warnings.append(f'rate_limit_policies ("{record.name}"): {record.warning}')
        return record

    def _built(self, kind: str, tree: dict[str, Any]) -> None:
        """Refuse what is known and not built; drop it where it is empty."""
        for name in unavailable.SHAPES if kind == "models" else ():
            if name in tree:
                raise Refused(unavailable.refusal(name), (name,))
        for name in unavailable.FIELDS[kind]:
            if tree.get(name) in ({}, []) and name in tree:
                del tree[name]
            if tree.get(name) is not None:
                raise Refused(unavailable.refusal(name), (name,))
        if kind == "provider_keys" and tree.get("adapter") in unavailable.ADAPTERS:
            raise Refused(unavailable.refusal(f"adapter: {tree['adapter']}"), ("adapter",))
        if kind == "api_keys":  # a null of these is as good as absent; for models it is an error of its own
            for name in unavailable.FIELDS[kind]:
                tree.pop(name, None)

    def _together(self, record: guarding.Guardrail) -> None:
        kind = GUARDRAIL_KINDS[record.kind]
        try:
            guarding.check(record, kind)
        except guarding.Fault as fault:
            raise Refused(str(fault), fault.path) from None
        self.warnings += [f'guardrails ("{record.name}"): {sentence}' for sentence in kind.warn(record.own)]

    def _references(self) -> None:
        """Check what points from entry to entry (5.6)."""
        models = self.named["models"]
        keys = [entry for entry in self.entries["api_keys"] if entry.record is not None]
        for entry in keys:
            for index, name in enumerate(entry.record.allowed_models):
                if "*" not in name and name not in models:
                    self._report(entry, dangling("allowed_models", name, "models", models), ("allowed_models", index))
        for entry in self.entries["models"]:
            for index, target in enumerate(entry.record.routing.targets if isinstance(entry.record, Group) else ()):
                if "*" not in target.model and target.model not in models:
                    path = ("routing", "targets", index, "model")
                    self._report(entry, dangling(dotted(path), target.model, "models", models), path)
        holders: dict[str, Entry] = {}
        for entry in keys:
            first = holders.setdefault(entry.record.key_hash, entry)
            if first is not entry:
                self._report(entry, f'duplicate api key credential: the same key as "{first.identity}"')


def _is_group(kind: str, tree: Mapping[str, Any]) -> bool:
    return kind == "models" and "routing" in tree
