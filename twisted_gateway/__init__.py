"""AISIX for Twisted: a streaming gateway between callers of language models and the providers who serve them.

A call comes in through `listener` and `front`, and goes through the trunk: `gateway`, which asks `policies`, then
`attempts`, each of them opened by `opening` over `upstream`, and `relay`, which joins an open answer to its
`downstream`. What a read becomes on the way is `line`'s and `formats`', and most often `lane`'s. `config` is what an
operator wrote, `stores` what outlives a call, `admin` what operators see; `parts` wires all of them, `tap` runs them.
CONTRIBUTING.md has every room, and what it may import.
"""

__version__ = "0.1.0"
