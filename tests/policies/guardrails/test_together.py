"""Several Deferreds awaited as one."""

import pytest
from twisted.internet.defer import CancelledError, Deferred

from twisted_gateway.policies.guardrails.together import together


def begun(*waiting):
    done = []
    told = Deferred.fromCoroutine(together(waiting))
    told.addBoth(done.append)
    return told, done


def test_results_are_in_order():
    first, second = Deferred(), Deferred()
    _, done = begun(first, second)
    second.callback(2)
    first.callback(1)
    assert done == [[1, 2]]
    assert begun()[1] == [[]]


@pytest.mark.parametrize("error", [ValueError("x"), CancelledError()])
def test_a_failure_is_raised_as_it_is_and_cancels_the_others(error):
    gone = []
    first, second = Deferred(gone.append), Deferred()
    _, done = begun(first, second)
    second.errback(error)
    assert done[0].value is error
    assert gone == [first]


def test_cancelling_cancels_all():
    gone = []
    told, done = begun(Deferred(gone.append), Deferred(gone.append))
    told.cancel()
    assert done[0].check(CancelledError)
    assert len(gone) == 2
