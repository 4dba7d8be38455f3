"""`pytest -p tests.on_aisix`: the whole suite on our own reactor (`make test REACTOR=aisix`).

A plugin named on the command line is imported before any other, and so before anything has chosen a reactor.
"""

from twisted_gateway.reactor import install

install()
