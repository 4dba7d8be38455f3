"""Several Deferreds awaited as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, FirstError, gatherResults


async def together(waiting: Sequence[Deferred[Any]]) -> list[Any]:
    """All results, in order. The first failure is raised as it is, a cancellation too, and cancels the others."""
    try:
        return list(await gatherResults(waiting, consumeErrors=True))
    except FirstError as first:
        failure = first.subFailure.value
        assert isinstance(failure, BaseException)
        raise failure from None
    finally:
        for one in waiting:
            one.cancel()
