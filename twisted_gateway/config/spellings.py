"""What an entry of a file may say in another way than its record: names in place of ids, keys in place of their hashes
(`configuration.md` 5.4). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from twisted_gateway.config import guarding, limits, unavailable
from twisted_gateway.config.checks import Path, Unknown, describe, dotted, written_names
from twisted_gateway.config.resources import GUARDRAIL_KINDS, RECORDS, ProviderKey, cidr, derived_id, key_hash
from twisted_gateway.config.schema import Refused, misfit, structured, worst
from twisted_gateway.facts import define

if TYPE_CHECKING:
    from twisted_gateway.config.entries import Entry

DIRECT = ("provider", "model_name", "provider_key", "provider_key_id")
"""What makes a model a direct one."""
_BROKEN = ProviderKey(id="", display_name="-", api_key="-")
"""Stands for a provider key that is reported already, so that the models which use it can still be read."""
_MOST_NAMES = 50
_NAMED = {"api_key": "api_keys", "model": "models"}
"""Scopes and dimensions whose values are names of entries in a file, and their collections."""


def dangling(field: str, name: str, kind: str, defined: Iterable[str]) -> str:
    """The sentence for a name that leads to no entry of a collection."""
    what, names = kind.removesuffix("s").replace("_", " "), sorted(defined)
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    listed = ", ".join(names[:_MOST_NAMES]) + more or "none"
    return f'`{field}` references unknown {what} "{name}" (defined {what}s: {listed})'


@define
class Spellings:
    """Rewrites entries. `named` are all entries of the file by collection and name; `warnings` are added to."""

    environ: Mapping[str, str]
    named: Mapping[str, Mapping[str, Entry]]
    warnings: list[str]

    def rewrite(self, kind: str, tree: dict[str, Any]) -> None:
        """Make an entry of this collection what its record reads. Raises `Refused`."""
        _REWRITES[kind](self, tree)

    def _provider_key(self, tree: dict[str, Any]) -> None:
        if "secret" in tree:
            if "api_key" in tree:
                raise Refused("`secret` is the older name of `api_key`: give only one of them", ("secret",))
            tree["api_key"] = tree.pop("secret")

    def _model(self, tree: dict[str, Any]) -> None:
        if "routing" in tree:
            mixed = [name for name in DIRECT if name in tree]
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
        field, written = given[0], tree.pop(given[0])
        if not isinstance(written, str):
            raise misfit((field,), f"expected a string, got {describe(written)}")
        defined = self.named["provider_keys"]
        known = defined
        if field == "provider_key_id":
            known = {derived_id("provider_keys", name): entry for name, entry in defined.items()}
        if written not in known:
            raise Refused(dangling(field, written, "provider_keys", defined), (field,))
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
            raise misfit((source,), f"expected a string, got {describe(written)}")
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
            raise Refused(dangling("scope_ref", name, "api_keys", self.named["api_keys"]), ("scope_ref",))
        tree["scope_ref"] = derived_id("api_keys", name)

    def _guardrail(self, tree: dict[str, Any]) -> None:
        """Read the kind's own fields, which are those of its record."""
        name = tree.get("kind")
        if isinstance(name, str) and name in unavailable.GUARDRAIL_KINDS and name not in GUARDRAIL_KINDS:
            raise Refused(unavailable.refusal(f"kind: {name}"), ("kind",))
        kind = GUARDRAIL_KINDS.get(name) if isinstance(name, str) else None
        if kind is None:
            expected = " or ".join(f'"{known}"' for known in GUARDRAIL_KINDS)
            raise misfit(("kind",), f"expected {expected}")
        try:
            own = guarding.prepared(tree, kind)
        except guarding.Fault as fault:
            raise Refused(str(fault), fault.path) from None
        known = [*guarding.COMMON, *written_names(kind.record)]
        tree["own"] = structured("guardrails", own, kind.record, known)
        tree["local"] = kind.local
        for key in tree:
            if key not in (*guarding.COMMON, "own", "local"):
                raise worst("guardrails", [((key,), Unknown(""))], known)

    def _rate_limit_policy(self, tree: dict[str, Any]) -> None:
        """Look up the entries that a policy names."""
        if (fault := limits.misshapen(tree)) is not None:
            raise worst("rate_limit_policies", [(fault.path, fault)], [])
        scope, wanted = tree.get("scope"), tree.get("scope_ref")
        if scope in _NAMED and isinstance(wanted, str):
            tree["scope_ref"] = self._id_of(scope, wanted, ("scope_ref",))
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
        scope, value = done.get("dimension"), done.get("value")
        if not isinstance(scope, str) or scope not in _NAMED:
            return done
        place = (*path, "value")
        if isinstance(value, str):
            done["value"] = self._id_of(scope, value, place)
        elif isinstance(value, list):
            done["value"] = [
                self._id_of(scope, one, (*place, index)) if isinstance(one, str) else one
                for index, one in enumerate(value)
            ]
        return done

    def _id_of(self, scope: str, name: str, path: Path) -> str:
        """The id of the key or model of this name; a name with `*` need not be defined."""
        kind = _NAMED[scope]
        if name not in self.named[kind] and "*" not in name:
            raise Refused(dangling(dotted(path), name, kind, self.named[kind]), path)
        return derived_id(kind, name)

    def _cache_policy(self, tree: dict[str, Any]) -> None:
        for name in tree.keys() - set(written_names(RECORDS["cache_policies"])):
            del tree[name]  # unknown members pass at the root of this kind (5.5)


_REWRITES = {
    "provider_keys": Spellings._provider_key,
    "models": Spellings._model,
    "api_keys": Spellings._caller_key,
    "budgets": Spellings._budget,
    "guardrails": Spellings._guardrail,
    "rate_limit_policies": Spellings._rate_limit_policy,
    "cache_policies": Spellings._cache_policy,
}
