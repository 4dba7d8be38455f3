"""What is wrong with a resources file, all of it at once (`configuration.md` 5.7). Pure."""

from collections.abc import Sequence

from twisted_gateway.config.checks import one_line
from twisted_gateway.facts import frozen


@frozen
class Finding:
    """One line of the report. `kind` is the collection, "" for the file itself; `reason` is `last_error_kind` of
    `/status/config` (`operations.md` 3.1): `non_json`, `parse_failed` or `schema_failed`.
    """

    message: str
    kind: str = ""
    index: int | None = None
    identity: str | None = None
    line: int | None = None
    reason: str = "schema_failed"

    @property
    def label(self) -> str:
        """Where: `models[2] ("gpt-4o")`, without the name when it could not be read, or `(file)`."""
        if not self.kind:
            return "(file)"
        name = f' ("{self.identity}")' if self.identity is not None else ""
        return f"{self.kind}[{self.index}]{name}"

    def __str__(self) -> str:
        line = f" (line {self.line})" if self.line is not None else ""
        return f"{self.label}: {self.message}{line}"


class ResourcesError(Exception):
    """A resources file that cannot be used; the text is the whole report.

    `stage` says how far it came: `fetch` (not readable), `parse` (not YAML) or `validate`. `source_hash` is the SHA-256
    of the bytes read, "" when there are none.
    """

    def __init__(self, source: str, findings: Sequence[Finding], *, stage: str, source_hash: str = "") -> None:
        self.source, self.findings, self.stage, self.source_hash = source, tuple(findings), stage, source_hash
        lines = "".join(f"\n  - {one_line(str(finding))}" for finding in findings)
        super().__init__(f"resources file {source}: {len(findings)} error(s):{lines}")
