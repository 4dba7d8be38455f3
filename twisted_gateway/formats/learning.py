"""What is known of an answer before anything is learnt of it."""

from __future__ import annotations

from twisted_gateway.errors import Problem


class Learning:
    """`row.Learnt` at its beginning, but for `usage`: passages and decoders write over it what they learn.

    The values are the class's, so that an answer begins without a step for each.
    """

    text_bytes: int = 0
    complete: bool = False
    ended: bool = False
    failure: Problem | None = None
    provider_request_id: str | None = None
    provider_model: str | None = None
    finish_reason: str | None = None
    noise: int = 0
