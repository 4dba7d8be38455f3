"""Finds the Python objects that the boot file names as `package.module:attribute`. Nothing else may name code."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def named_code(written: str) -> Any:
    """Import the module and give the attribute, which may be dotted.

    Raises `ValueError` with a reason, also for a module that raises while it is imported.
    """
    module, colon, attribute = written.partition(":")
    if not (colon and module and attribute and all(part.isidentifier() for part in f"{module}.{attribute}".split("."))):
        raise ValueError("expected package.module:attribute")
    try:
        found: Any = import_module(module)
    except Exception as error:
        raise ValueError(f"cannot import {module}: {type(error).__name__}: {error}") from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{module} has no attribute {attribute}")
        found = getattr(found, part)
    return found
