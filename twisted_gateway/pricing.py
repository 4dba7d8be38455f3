"""What tokens cost, by the prices of a model (`extensions.md` 6). Pure."""

from __future__ import annotations

from typing import Protocol

from twisted_gateway.config.money import Cost


class Counted(Protocol):
    """Token counters: `prompt` includes `cache_read` and `cache_write`, which includes `cache_write_1h`."""

    @property
    def prompt(self) -> int:
        """Everything the model read."""

    @property
    def completion(self) -> int:
        """Everything it wrote."""

    @property
    def cache_read(self) -> int:
        """Input that came from the provider's cache."""

    @property
    def cache_write(self) -> int:
        """Input that was put there."""

    @property
    def cache_write_1h(self) -> int:
        """Of it, what stays for an hour."""


def price(prices: Cost | None, counted: Counted) -> float:
    """US dollars for these tokens; nothing where the model has no prices."""
    if prices is None:
        return 0.0
    fresh = max(0, counted.prompt - counted.cache_read - counted.cache_write)
    thousands = (
        fresh * prices.input_per_1k
        + counted.cache_read * _or(prices.cache_read_per_1k, prices.input_per_1k)
        + counted.completion * prices.output_per_1k
    )
    if counted.cache_write:
        write = _or(prices.cache_write_per_1k, prices.input_per_1k)
        long = min(counted.cache_write_1h, counted.cache_write)
        thousands += (counted.cache_write - long) * write + long * _or(prices.cache_write_1h_per_1k, write)
    return thousands / 1000


def _or(price: float | None, instead: float) -> float:
    return instead if price is None else price
