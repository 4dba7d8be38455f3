"""Acceptance tests with recordings: what providers really sent, through a running gateway, read by official SDKs.

The items of `../shared/streams` lie beside the checkout; `tests/fixtures/` has small ones of our own in the same shape,
so that the same tests run without them. The rules: end of `streaming.md` section 24.
"""
