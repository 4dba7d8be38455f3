"""What calls cost: prices (`extensions.md` 6). Pure."""

from __future__ import annotations

from typing import Annotated

import attrs

from twisted_gateway.config.checks import Number

Price = Annotated[float, Number(low=0.0)]
"""US dollars for 1,000 tokens."""


@attrs.frozen(slots=True)
class Cost:
    """A model's prices in US dollars for 1,000 tokens. What is not written: cached input costs what input costs, and an
    hour's cache write what a write of five minutes does.
    """

    input_per_1k: Price
    output_per_1k: Price
    cache_read_per_1k: Price | None = None
    cache_write_per_1k: Price | None = None
    cache_write_1h_per_1k: Price | None = None
