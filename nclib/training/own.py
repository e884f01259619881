"""What tells data and networks of one's own apart, where no recipe names them: a digest for a folder's name."""

import inspect
import marshal
from hashlib import sha256
from types import NoneType

from safetensors.torch import save
from torch import nn

from ..data import as_dataset
from .checkpoint import weights


def content(data, model: nn.Module | None) -> str:
    """What a folder's name adds for data and a network of one's own: a digest of every image and label, of names and
    statistics, and of the network: weights, what is frozen, settings, source. Empty where there are none."""
    if data is None and model is None:
        return ""
    digest = sha256()
    if data is not None:
        for tensor in (*(data := as_dataset(data)).train, *data.test):
            digest.update(str(tuple(tensor.shape)).encode() + tensor.cpu().contiguous().numpy().tobytes())
        if (said := (data.statistics, data.num_classes)) != (None, int(data.train.labels.max()) + 1):
            digest.update(repr(said).encode())
    if model is not None:
        digest.update(repr(model).encode() + save(weights(model)))
        own = {kind for m in model.modules() for kind in type(m).__mro__ if not _librarys(kind)}
        for kind in sorted(own | {type(m) for m in model.modules()}, key=str):
            digest.update(_source(kind))
        digest.update(_beside_weights(model))
    return f"+{digest.hexdigest()[:10]}"


def _librarys(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("torch", "builtins")


def _source(kind: type) -> bytes:
    try:
        return inspect.getsource(kind).encode()
    except (OSError, TypeError):  # typed into a prompt
        return b"".join(marshal.dumps(f.__code__) for f in vars(kind).values() if hasattr(f, "__code__"))


def _beside_weights(model: nn.Module) -> bytes:
    """What a network of one's own is and its weights do not tell: frozen parameters, buffers that are not saved, and
    plain settings of modules that are not torch's. Empty where there is none of it."""
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    saved = model.state_dict().keys()
    buffers = {name: b.detach().contiguous().cpu() for name, b in model.named_buffers() if name not in saved}
    settings = [
        (name, key, value)
        for name, module in model.named_modules()
        for key, value in sorted(vars(module).items())
        if not _librarys(type(module)) and key[0] != "_" and key != "training"
        if isinstance(value, (int, float, str, tuple, NoneType))
    ]
    return repr((frozen, settings)).encode() + save(buffers) if frozen or settings or buffers else b""
