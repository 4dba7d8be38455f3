"""The configuration room: what an operator wrote, read once, checked wholly, and frozen.

The boot file:
* `settings` is its records, with parts of them in `redis`, `hooking`, `rewrites` and `dormant`; `readers` reads values
  of a special form; `boot` makes them, with the `AISIX_*` variables that `environment` lays over the tree.

The resources file:
* `resources` are its records, with parts of them in `routes` (groups, checks, retries), `limits` and `conditions`,
  `money` (prices, budgets), `caching`, and `guarding`: `guarding_local` and `guarding_remote` are kinds of guardrails,
  `regexes` theirs.
* `entries` makes them, entry by entry, with `interpolation`, `spellings` and `schema`; `report` says all that is wrong.
* `snapshot` links them into the immutable `Snapshot` that each call takes along.

Both: `checks` are the rules of reading, `unavailable` names keys that are known and not built, `file` opens the files.
Nothing else here does any I/O.
"""
