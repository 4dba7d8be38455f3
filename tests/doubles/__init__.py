"""What stands in for the outside world: a provider that misbehaves, a caller that watches, recordings, a process.

`provider` and `caller` live in the reactor of the test; both speak HTTP/1.1 by `http1`, which shares nothing with the
code under test. `process` runs the real thing as a child and blocks, for plain tests. `cutting` decides where the
network cuts bytes.
"""
