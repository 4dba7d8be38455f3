"""The `server-timing` header (`extensions.md` 8)."""

from twisted_gateway.timing import server_timing

from .exchanges import attempt, exchange


def test_a_good_answer_names_all_four_and_they_add_up():
    made = exchange(attempts=[attempt(sent=100.2)])
    assert server_timing(made, 100.4) == b"queue;dur=100.0, connect;dur=100.0, upstream;dur=150.0, own;dur=50.0"


def test_failed_attempts_are_part_of_our_own_time():
    first = attempt(started=100.0, sent=100.0, first_event=None, ended=100.1)
    made = exchange(attempts=[first, attempt(index=1, sent=100.1)])
    assert server_timing(made, 100.4) == b"queue;dur=0.0, connect;dur=0.0, upstream;dur=250.0, own;dur=150.0"


def test_before_the_first_event_only_what_is_known_is_named():
    waiting = attempt(sent=100.3, first_event=None, ended=None)
    assert server_timing(exchange(attempts=[waiting]), 115.0) == b"queue;dur=100.0, connect;dur=200.0"
    connecting = attempt(sent=None, first_event=None, ended=None)
    assert server_timing(exchange(attempts=[connecting]), 115.0) == b"queue;dur=100.0"


def test_an_answer_without_attempts_is_all_ours():
    assert server_timing(exchange(attempts=[]), 100.5) == b"own;dur=500.0"


def test_a_failed_call():
    failed = attempt(sent=100.2, first_event=None, ended=101.0)
    assert server_timing(exchange(attempts=[failed]), 101.0) == b"queue;dur=100.0, connect;dur=100.0, own;dur=800.0"
