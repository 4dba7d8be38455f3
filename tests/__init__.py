"""The tests; they mirror the tree of `twisted_gateway`. What stands in for the outside world is in `doubles/`."""
