"""A processor that says it is another device: what stays behind on the first one meets it and fails.

Numbers are those of the processor, so that whole runs go through. A tensor of more than one number
that was made without the device of the others raises as it would beside a GPU's.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

THERE = torch.device("meta")


class Elsewhere(torch.Tensor):
    """A tensor that holds its numbers in `here`, and says that they are there."""

    @staticmethod
    def __new__(cls, here):
        strides = here.stride() if here.layout == torch.strided else None
        return torch.Tensor._make_wrapper_subclass(
            cls, here.shape, dtype=here.dtype, device=THERE, strides=strides
        )

    def __init__(self, here):
        self.here = here

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} was called outside of Device()")

    def tolist(self):
        return self.here.tolist()

    def numpy(self, *_, **__):
        raise TypeError("numbers of another device are no array: .cpu() comes first")


def there(x):
    """The same numbers on the other device."""
    return Elsewhere(x) if isinstance(x, torch.Tensor) and not isinstance(x, Elsewhere) else x


class Device(TorchDispatchMode):
    """Within, what is made there stays there, and nothing of here is added to it unasked."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        seen = {"there": False, "here": None}

        def inner(x):
            if isinstance(x, Elsewhere):
                seen["there"] = True
                return x.here
            if isinstance(x, torch.Tensor) and x.ndim:
                seen["here"] = tuple(x.shape)
            return x

        args, kwargs = tree_map(inner, args), tree_map(inner, kwargs)
        asked = kwargs.get("device")
        moves = asked is not None or function in (torch.ops.aten.copy_.default,)
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        if seen["there"] and seen["here"] is not None and not moves:
            raise RuntimeError(f"{function} found {seen['here']} on the processor, the rest there")
        found = function(*args, **kwargs)
        wraps = torch.device(asked) == THERE if asked is not None else seen["there"]
        return tree_map(there, found) if wraps else found
