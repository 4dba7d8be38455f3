"""attrs' decorators as the house has them: `frozen` for facts, `define` for state, `fact` for what a call makes anew.

What attrs would make for each of hundreds of classes anew, 1.4 MB of an idle gateway, is shared or left out: all have
one `__repr__`, and no methods for pickling, no second class that names the fields.

`frozen` sees to it at run time too that nothing is changed, which more than doubles what making an object costs: 6 us
of a call, over all its facts. Of a `fact` mypy alone sees to that.
"""

from __future__ import annotations

from reprlib import recursive_repr
from typing import TYPE_CHECKING

import attrs

__all__ = ["define", "fact", "frozen"]

if TYPE_CHECKING:
    from attrs import define, frozen
    from attrs import frozen as fact
else:

    @recursive_repr("...")
    def _representation(self):
        shown = []
        for field in type(self).__attrs_attrs__:
            if field.repr:
                show = repr if field.repr is True else field.repr
                shown.append(f"{field.name}={show(getattr(self, field.name, attrs.NOTHING))}")
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def _lean(make, **usual):
        usual = {**usual, "repr": False, "getstate_setstate": False}

        def made(cls, options):
            cls = make(cls, **usual, **options)
            cls.__attrs_attrs__ = tuple(cls.__attrs_attrs__)
            if cls.__repr__ is object.__repr__:
                cls.__repr__ = _representation
            return cls

        def decorator(cls=None, **options):
            return made(cls, options) if cls is not None else lambda cls: made(cls, options)

        return decorator

    frozen = _lean(attrs.frozen)
    define = _lean(attrs.define)
    fact = _lean(attrs.define, unsafe_hash=True)
