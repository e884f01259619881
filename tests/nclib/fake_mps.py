"""An MPS device for machines without one: tensors that say "mps", are on the CPU, and know no float64.

As PyTorch documents it: no double precision there, and no mixing with tensors of another device, but for numbers.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

MPS = torch.device("mps")
NO_DOUBLE = "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
FREE = {"__getitem__", "__setitem__", "__get__", "__set__", "copy_", "index_put_"}  # may see tensors of the CPU


class OnMps(torch.Tensor):
    """A tensor of the fake device. What is made of it stays there."""

    @property
    def device(self):
        return MPS

    def __deepcopy__(self, memo):
        with torch._C.DisableTorchFunctionSubclass():
            copy = self.detach().clone().as_subclass(OnMps).requires_grad_(self.requires_grad)
        copy._is_param = isinstance(self, torch.nn.Parameter)
        return copy

    @classmethod
    def __torch_function__(cls, call, types, args=(), kwargs=None):
        given = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
        strangers = [t for t in given if not isinstance(t, OnMps) and t.ndim]
        if strangers and call.__name__ not in FREE:
            raise RuntimeError(f"Expected all tensors to be on the same device, in {call.__name__}")
        out = super().__torch_function__(call, types, args, kwargs or {})
        if call.__name__ == "__get__" and isinstance(out, torch.Tensor):
            out = on(out)  # a gradient
        return tree_map(here, out)


def here(t):
    if isinstance(t, OnMps) and t.dtype == torch.float64:
        raise TypeError(NO_DOUBLE)
    return t


class FakeMps(TorchFunctionMode):
    """Within it, ``device="mps"`` works: calls that name a device are answered here."""

    def __torch_function__(self, call, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(call, "__name__", "")
        if name == "_has_compatible_shallow_copy_type":
            return False  # a module's parameters are made anew when it moves
        if name == "cpu":
            return off(args[0])
        if name == "to":
            return moved(*args, **kwargs)
        if kwargs.get("device") is not None:
            there = torch.device(kwargs.pop("device")).type == "mps"
            out = call(*args, **kwargs, device="cpu")
            return here(on(out)) if there else off(out)
        return call(*args, **kwargs)


def on(t: torch.Tensor) -> torch.Tensor:
    return t if isinstance(t, OnMps) else t.as_subclass(OnMps)


def off(t: torch.Tensor) -> torch.Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        return t.as_subclass(torch.Tensor)


def moved(t: torch.Tensor, *words, **options) -> torch.Tensor:
    """``Tensor.to``: to a device, a type, another tensor's, or several of these."""
    device, left = options.pop("device", None), []
    for word in words:
        if isinstance(word, torch.Tensor):
            device, word = word.device, word.dtype
        if isinstance(word, (str, torch.device)):
            device = torch.device(word)
        elif isinstance(word, torch.dtype):
            left.append(word)
    there = isinstance(t, OnMps) if device is None else torch.device(device).type == "mps"
    with torch._C.DisableTorchFunctionSubclass():
        out = torch.Tensor.to(t, *left, **options) if left or options else t
        out = out.as_subclass(OnMps if there else torch.Tensor)
    return here(out)
