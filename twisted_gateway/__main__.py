"""`python -m twisted_gateway`: the `aisix` command."""

from twisted_gateway.tap import main

main()
