"""From a resources document to records, one entry at a time, collecting all that is wrong (`configuration.md` 5).

Each entry goes through: variables, identity, file-only spellings (5.4), keys that are not available yet, its record's
own checks (5.5). An entry that fails is reported once and left out; its name still counts as defined, so that one
mistake does not become ten. Pure.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from twisted_gateway.config import guarding, limits, unavailable
from twisted_gateway.config.checks import (
    Lines,
    Path,
    Unknown,
    bare,
    converter,
    describe,
    dotted,
    leaves,
    line_of,
    written_names,
)
from twisted_gateway.config.interpolation import interpolated_tree
from twisted_gateway.config.report import Finding
from twisted_gateway.config.resources import (
    COLLECTIONS,
    GUARDRAIL_KINDS,
    IDENTITIES,
    RECORDS,
    SPELLINGS,
    Group,
    Model,
    ProviderKey,
    cidr,
    derived_id,
    key_hash,
)

_CONVERTER = converter()
_BROKEN = ProviderKey(id="", display_name="-", api_key="-")
"""Stands for a provider key that is reported already, so that the models which use it can still be read."""
_MOST_NAMES = 50
_NULL_IS_ABSENT = ("provider_keys", "api_keys")
_DIRECT = ("provider", "model_name", "provider_key", "provider_key_id")
"""What makes a model a direct one."""
_KNOBS = (
    *(name for name in written_names(Model) if name not in (*written_names(Group), *_DIRECT)),
    *("auto_prompt_caching", "embedding"),
)
"""Keys of direct models that a group cannot use (`configuration.md` 7.2)."""


class Refused(Exception):
    """One entry cannot be used: the reason, and the path inside the entry that it speaks of."""

    def __init__(self, message: str, path: Path = ()) -> None:
        super().__init__(message)
        self.path = path


@attrs.define
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


@attrs.define
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
            tree = _without_nulls(RECORDS[entry.kind], tree)
        elif (null := next((key for key in tree if tree[key] is None), None)) is not None:
            raise Refused(f"schema validation failed at `{_pointer((null,))}`: null is not allowed", (null,))
        _REWRITES[entry.kind](self, tree)
        assert entry.identity is not None
        tree["id"] = derived_id(entry.kind, entry.identity)
        shape = Group if _is_group(entry.kind, tree) else RECORDS[entry.kind]
        record = _structured(entry.kind, tree, shape, [*written_names(shape)])
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

    def _provider_key(self, tree: dict[str, Any]) -> None:
        if "secret" in tree:
            if "api_key" in tree:
                raise Refused("`secret` is the older name of `api_key`: give only one of them", ("secret",))
            tree["api_key"] = tree.pop("secret")

    def _model(self, tree: dict[str, Any]) -> None:
        if "routing" in tree:
            mixed = [name for name in _DIRECT if name in tree]
            if mixed:
                names = ", ".join(f"`{name}`" for name in mixed)
                raise Refused(f"{names} beside `routing`: a model is either direct or a group", (mixed[0],))
        else:
            self._linked(tree)
        for index, member in enumerate(tree["allowed_cidrs"] if isinstance(tree.get("allowed_cidrs"), list) else ()):
            if isinstance(member, str) and cidr(member) is None:
                self.warnings.append(
                    f'models ("{tree["display_name"]}"): allowed_cidrs[{index}] is not a network and is ignored '
                    "(a single address is written with /32 or /128)"
                )

    def _linked(self, tree: dict[str, Any]) -> None:
        """Put the provider key's record in place of its name."""
        given = [name for name in ("provider_key", "provider_key_id") if name in tree]
        if not given:
            raise Refused("`provider_key` is required (the `display_name` of an entry of provider_keys)")
        if len(given) == 2:
            raise Refused("`provider_key` and `provider_key_id` exclude each other", ("provider_key_id",))
        name, written = given[0], tree.pop(given[0])
        if not isinstance(written, str):
            raise Refused(
                f"schema validation failed at `{_pointer((name,))}`: expected a string, got {describe(written)}",
                (name,),
            )
        known = self.named["provider_keys"]
        if name == "provider_key_id":
            known = {derived_id("provider_keys", own): entry for own, entry in known.items()}
        if written not in known:
            raise Refused(
                f'`{name}` references unknown provider key "{written}" '
                f"(defined provider keys: {self._names('provider_keys')})",
                (name,),
            )
        tree["provider_key"] = known[written].record or _BROKEN

    def _caller_key(self, tree: dict[str, Any]) -> None:
        tree["name"] = tree.pop("display_name")
        given = [name for name in ("key", "key_env", "key_hash") if name in tree]
        if len(given) != 1:
            raise Refused("exactly one of `key`, `key_env` and `key_hash` is required")
        source = given[0]
        if source == "key_hash":
            return
        written = tree.pop(source)
        if not isinstance(written, str):
            raise Refused(
                f"schema validation failed at `/{source}`: expected a string, got {describe(written)}", (source,)
            )
        if source == "key_env":
            key = self.environ.get(written, "")
            if not key:
                state = "empty" if written in self.environ else "not set"
                raise Refused(f"`key_env`: environment variable `{written}` is {state}", (source,))
        else:
            key = written
            if not key:
                raise Refused("`key` must not be empty", (source,))
        if "${" in key:
            raise Refused(f"`{source}`: the key must not hold `${{` (a variable that was not filled in?)", (source,))
        tree["key_hash"] = key_hash(key)

    def _budget(self, tree: dict[str, Any]) -> None:
        name = tree.get("scope_ref")
        if tree.get("scope") != "api_key" or not isinstance(name, str):
            return
        if name not in self.named["api_keys"]:
            raise Refused(
                f'`scope_ref` references unknown api key "{name}" (defined api keys: {self._names("api_keys")})',
                ("scope_ref",),
            )
        tree["scope_ref"] = derived_id("api_keys", name)

    def _guardrail(self, tree: dict[str, Any]) -> None:
        """Read the kind's own fields, which are those of its record."""
        name = tree.get("kind")
        if isinstance(name, str) and name in unavailable.GUARDRAIL_KINDS and name not in GUARDRAIL_KINDS:
            raise Refused(unavailable.refusal(f"kind: {name}"), ("kind",))
        kind = GUARDRAIL_KINDS.get(name) if isinstance(name, str) else None
        if kind is None:
            expected = " or ".join(f'"{known}"' for known in GUARDRAIL_KINDS)
            raise Refused(f"schema validation failed at `/kind`: expected {expected}", ("kind",))
        try:
            own = guarding.prepared(tree, kind)
        except guarding.Fault as fault:
            raise Refused(str(fault), fault.path) from None
        known = [*guarding.COMMON, *written_names(kind.record)]
        tree["own"] = _structured("guardrails", own, kind.record, known)
        tree["local"] = kind.local
        for key in tree:
            if key not in (*guarding.COMMON, "own", "local"):
                raise _schema_refusal("guardrails", [((key,), Unknown(""))], known)

    def _together(self, record: guarding.Guardrail) -> None:
        kind = GUARDRAIL_KINDS[record.kind]
        try:
            guarding.check(record, kind)
        except guarding.Fault as fault:
            raise Refused(str(fault), fault.path) from None
        self.warnings += [f'guardrails ("{record.name}"): {sentence}' for sentence in kind.warn(record.own)]

    def _rate_limit_policy(self, tree: dict[str, Any]) -> None:
        """Look up the entries that a policy names (5.4)."""
        if (fault := limits.misshapen(tree)) is not None:
            raise _schema_refusal("rate_limit_policies", [(fault.path, fault)], [])
        scope, wanted = tree.get("scope"), tree.get("scope_ref")
        if scope in _NAMED and isinstance(wanted, str):
            tree["scope_ref"] = self._id_of(scope, wanted, ("scope_ref",), "scope_ref")
        if "conditions" in tree:
            tree["conditions"] = self._with_ids(tree["conditions"], ("conditions",))

    def _with_ids(self, node: Any, path: Path) -> Any:
        """A tree of conditions with ids in place of the names of keys and models. What is malformed stays."""
        if isinstance(node, list):
            return [self._with_ids(member, (*path, index)) for index, member in enumerate(node)]
        if not isinstance(node, Mapping):
            return node
        done = dict(node)
        if "children" in done:
            done["children"] = self._with_ids(done["children"], (*path, "children"))
        kind, value = done.get("dimension"), done.get("value")
        if not isinstance(kind, str) or kind not in _NAMED:
            return done
        place = (*path, "value")
        if isinstance(value, str):
            done["value"] = self._id_of(kind, value, place, dotted(place))
        elif isinstance(value, list):
            done["value"] = [
                self._id_of(kind, one, (*place, index), dotted((*place, index))) if isinstance(one, str) else one
                for index, one in enumerate(value)
            ]
        return done

    def _id_of(self, scope: str, name: str, path: Path, field: str) -> str:
        """The id of the key or model of this name; a name with `*` need not be defined."""
        kind, what = _NAMED[scope]
        if name not in self.named[kind] and "*" not in name:
            raise Refused(f'`{field}` references unknown {what} "{name}" (defined {what}s: {self._names(kind)})', path)
        return derived_id(kind, name)

    def _cache_policy(self, tree: dict[str, Any]) -> None:
        for name in tree.keys() - set(written_names(RECORDS["cache_policies"])):
            del tree[name]  # unknown members pass at the root of this kind (5.5)

    def _names(self, kind: str) -> str:
        names = sorted(self.named[kind])
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        return ", ".join(names[:_MOST_NAMES]) + more or "none"

    def _references(self) -> None:
        """Check what points from entry to entry (5.6)."""
        keys = [entry for entry in self.entries["api_keys"] if entry.record is not None]
        for entry in keys:
            for index, name in enumerate(entry.record.allowed_models):
                if "*" not in name and name not in self.named["models"]:
                    self._report(
                        entry,
                        f'`allowed_models` references unknown model "{name}" (defined models: {self._names("models")})',
                        ("allowed_models", index),
                    )
        for entry in self.entries["models"]:
            for index, target in enumerate(entry.record.routing.targets if isinstance(entry.record, Group) else ()):
                if "*" not in target.model and target.model not in self.named["models"]:
                    path = ("routing", "targets", index, "model")
                    self._report(
                        entry,
                        f'`{dotted(path)}` references unknown model "{target.model}" '
                        f"(defined models: {self._names('models')})",
                        path,
                    )
        holders: dict[str, Entry] = {}
        for entry in keys:
            first = holders.setdefault(entry.record.key_hash, entry)
            if first is not entry:
                self._report(entry, f'duplicate api key credential: the same key as "{first.identity}"')


_REWRITES = {
    "provider_keys": Reading._provider_key,
    "models": Reading._model,
    "api_keys": Reading._caller_key,
    "budgets": Reading._budget,
    "guardrails": Reading._guardrail,
    "rate_limit_policies": Reading._rate_limit_policy,
    "cache_policies": Reading._cache_policy,
}

_NAMED = {"api_key": ("api_keys", "api key"), "model": ("models", "model")}
"""Scopes and dimensions whose values are names of entries in a file."""


def _is_group(kind: str, tree: Mapping[str, Any]) -> bool:
    return kind == "models" and "routing" in tree


def _structured(kind: str, tree: Mapping[str, Any], record: type[Any], known: list[str]) -> Any:
    """The record of an entry; `known` are the keys that it may have."""
    try:
        return _CONVERTER.structure(tree, record)
    except Exception as error:
        known = known if record is Group else [*known, *SPELLINGS[kind]]
        raise _schema_refusal(kind, list(leaves(error)), known) from None


def _schema_refusal(kind: str, problems: list[tuple[Path, Exception]], known: list[str]) -> Refused:
    """The first schema error of an entry; an unknown key says more than the missing one it may stand for."""
    path, error = min(problems, key=lambda problem: not isinstance(problem[1], Unknown))
    reason: object = error
    if isinstance(error, Unknown) and len(path) == 1:
        names = [name for name in known if kind != "api_keys" or name != "name"]
        reason = f"unknown key (expected one of {', '.join(names)})"
    return Refused(f"schema validation failed at `{_pointer(path)}`: {reason}", path)


def _without_nulls(record: type[Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Drop nulls of the record's own keys, in its inner records too: there null means not written."""
    attrs.resolve_types(record)
    types = {field.name: bare(field.type) for field in attrs.fields(record)}
    kept: dict[str, Any] = {}
    for key, value in tree.items():
        if value is None and (key in types or key in ("secret", "key", "key_env")):
            continue
        inner = types.get(key)
        kept[key] = _without_nulls(inner, value) if inner and attrs.has(inner) and isinstance(value, Mapping) else value
    return kept


def _pointer(path: Path) -> str:
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
