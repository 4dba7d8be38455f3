"""The configuration room: what an operator wrote, read once, checked wholly, and frozen.

* `settings` is the boot file (listeners, deadlines, logs); `environment` lays `AISIX_*` variables over it.
* `resources` are the records of the resources file (provider keys, models, caller keys); `interpolation` and
  `entries` turn documents into them; `snapshot` links them into the immutable `Snapshot` that each call takes along.
* `checks` is the small set of rules that both are read with; `unavailable` names the keys that are known and not built.
* `file` is the only module here that opens a file.
"""
