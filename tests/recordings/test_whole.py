"""Recorded JSON answers through the gateway, asked as JSON and asked as a stream."""

from __future__ import annotations

import pytest

from tests.doubles.recordings import Recording

from .house import MESSAGES, House
from .items import CHAT_WHOLE, ONE_BYTE_LIMIT, each
from .reading import Reading, differences, plain
from .replay import Delivery

DELIVERIES = (
    Delivery("whole", "length"),
    Delivery("random", "chunked", seed=1),
    Delivery("random", "close", seed=2),
    Delivery("bytes", "length"),
)


@each(CHAT_WHOLE)
def test_this_reader_reads_what_the_oracle_read(item: Recording, house: House) -> None:
    reading = Reading(tolerant=True)
    reading.add(plain(house.direct.chat.completions.create(model=item.name, messages=MESSAGES)))
    assert differences(reading, item.read) == []


@pytest.mark.parametrize("delivery", DELIVERIES, ids=str)
@each([item for item in CHAT_WHOLE if len(item.body) <= ONE_BYTE_LIMIT])
def test_equals_its_expectation(item: Recording, delivery: Delivery, house: House) -> None:
    reading = house.whole(item, delivery)
    assert reading.error is None
    assert differences(reading, item.read) == []
    assert reading.models == {f"our-{item.name}"}


@each(CHAT_WHOLE)
def test_asked_as_a_stream(item: Recording, house: House) -> None:
    """A provider that does not stream: the answer is the same, in chunks (`streaming.md` section 4)."""
    reading = house.stream(item, Delivery("random", seed=3))
    assert reading.error is None
    assert differences(reading, item.read) == []
    assert reading.models == {f"our-{item.name}"}


@each(CHAT_WHOLE)
def test_a_body_cut_short_is_an_error(item: Recording, house: House) -> None:
    reading = house.whole(item, Delivery("whole", "length", abort=True))
    assert getattr(reading.error, "status_code", None) == 502
    assert reading.choices == {}
