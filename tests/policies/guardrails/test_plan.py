"""What is compiled of a snapshot's guardrails."""

from twisted_gateway.policies.guardrails.plan import Plan


class Counting:
    """In place of a matcher."""

    def __init__(self):
        self.scans = 0

    def scan(self, text, at):
        self.scans += 1


def test_a_plan_that_serves_again_is_not_warmed_again():
    plan = Plan((), lambda guardrail: None)
    plan.input.matcher = counting = Counting()
    plan.warm()
    once = counting.scans
    plan.warm()
    assert counting.scans == once > 0
