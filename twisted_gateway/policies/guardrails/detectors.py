"""The built-in detectors of kind `pii` and their checksums (`guardrails.md` 10). Pure.

All but `private_key` must stand alone: no ASCII letter, digit or underscore directly before or after. Where a regex
begins or ends with such a character this is RE2's `\\b`, which is ASCII; a run that takes all it can stands alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted_gateway.facts import frozen

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_WORD = "[A-Za-z0-9_-]"
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


@frozen
class Detector:
    """One detector. `check` looks at what the regex has found.

    `rest` is a regex for the characters that still belong to a match which is too long to be held until its end, if
    there can be one; `until` a regex for its end; `half` one for so much of a match that its end is waited for.
    """

    regex: str
    check: Callable[[str], bool] | None = None
    rest: str | None = None
    until: str | None = None
    half: str | None = None


def luhn(digits: str) -> bool:
    """Whether the last digit is the one that Luhn's rule asks for."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = ord(digit) - 48
        if place % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0


def chinese_id(number: str) -> bool:
    """Whether the last character is the one that ISO 7064 MOD 11-2 asks for."""
    total = sum((ord(digit) - 48) * weight for digit, weight in zip(number, _ID_WEIGHTS, strict=False))
    return "10X98765432"[total % 11] == number[17].upper()


DETECTORS: Mapping[str, Detector] = {
    "email": Detector(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}\b"),
    "china_mobile": Detector(r"\b1[3-9][0-9]{9}\b"),
    "china_id_card": Detector(r"\b[0-9]{17}[0-9Xx]\b", chinese_id),
    "bank_card": Detector(r"\b[0-9]{13,19}\b", luhn),
    "us_ssn": Detector(r"\b[0-9]{3}-[0-9]{2}-[0-9]{4}\b"),
    "ip_address": Detector(rf"\b{_OCTET}(?:\.{_OCTET}){{3}}\b"),
    "api_key": Detector(
        rf"\b(?:sk-{_WORD}{{20,}}|AKIA[A-Z0-9]{{16}}\b|gh[pousr]_[A-Za-z0-9]{{36}}\b|github_pat_[A-Za-z0-9_]{{22,}}"
        rf"|xox[abprs]-{_WORD}{{10,}}|AIza{_WORD}{{34}}(?:[A-Za-z0-9_]\b|-\B|-\z))",
        rest=f"{_WORD}+",
    ),
    "jwt": Detector(
        rf"\beyJ{_WORD}{{8,}}\.{_WORD}{{8,}}\.{_WORD}{{8,}}",
        rest=f"{_WORD}+",
        half=rf"\beyJ{_WORD}{{8,}}\.{_WORD}{{8,}}(?:\.{_WORD}*)?",
    ),
    "private_key": Detector(
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?s:.)*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)",
        until=r"-----END [A-Z0-9 ]*PRIVATE KEY-----",
    ),
}
