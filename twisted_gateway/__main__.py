"""`python -m twisted_gateway`: the `aisix` command."""

from twisted_gateway.command import main

main()
