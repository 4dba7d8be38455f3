"""The gateway over real sockets, inside the reactor of the test: faults, aborts, backpressure, timing."""
