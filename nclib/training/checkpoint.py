"""What a training has behind it, on disk: saved whole, resumed where it is sound, cleared away where it is not."""

import inspect
import json
import marshal
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from types import NoneType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..data import as_dataset
from ..runtime import changed, log, write
from .recipe import Recipe

RECORD = "recipe.json"
UNFINISHED = "unfinished"


@dataclass
class Checkpoint:
    """What a training has behind it: epochs, seconds, seconds at kept epochs, and the sha256 of each file written."""

    epoch: int = 0
    elapsed: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)


def name_of(epoch: int, what: str = "epoch") -> str:
    """The file of an epoch's weights ("epoch"), or of its outputs on stale perturbations ("stale")."""
    return f"{what}-{epoch:04d}.safetensors"


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().contiguous().cpu() for name, t in model.state_dict().items()}


def save_state(path: Path, model, optimizer, past: Checkpoint) -> None:
    tensors = {f"model.{n}": t for n, t in weights(model).items()}
    for name, p in model.named_parameters():
        if p in optimizer.state:  # nothing there before the first step, nor without momentum
            tensors[f"momentum.{name}"] = optimizer.state[p]["momentum_buffer"].contiguous().cpu()
    text = json.dumps(asdict(past))
    seal = sha256(save(tensors) + text.encode()).hexdigest()  # safetensors has no checksum against flipped bits
    write(path / "state.safetensors", save(tensors, {"past": text, "sha256": seal}))


def resume(path: Path, model, optimizer) -> Checkpoint:
    """Fill model and optimiser from the resume state, where it and the files before it are sound."""
    file = path / "state.safetensors"
    if not file.exists():
        return Checkpoint()
    try:
        with safe_open(file, "pt") as state:
            metadata, tensors = state.metadata(), {name: state.get_tensor(name) for name in state.keys()}  # noqa: SIM118
        if metadata["sha256"] != sha256(save(tensors) + metadata["past"].encode()).hexdigest():
            raise ValueError("digest differs")
        past = Checkpoint(**json.loads(metadata["past"]))
        damaged = changed(path, past.sha256)
    except (SafetensorError, KeyError, TypeError, ValueError):
        damaged = [file.name]
    if damaged:
        start_over(path, damaged[0])
        return Checkpoint()
    model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    for name, p in model.named_parameters():
        if f"momentum.{name}" in tensors:
            optimizer.state[p]["momentum_buffer"] = torch.empty_like(p).copy_(tensors[f"momentum.{name}"])
    return past


def fault(recipe: Recipe, path: Path) -> str | None:
    """Why a folder is not a finished run with all that the recipe asks for: unfinished, or the name of a bad file."""
    try:
        record = json.loads((path / RECORD).read_text())
        digests, seconds = record["sha256"], {int(epoch): float(took) for epoch, took in record["seconds"].items()}
        damaged = changed(path, {"model.safetensors": None} | digests) if 0 in seconds else [RECORD]
    except (FileNotFoundError, NotADirectoryError):
        return UNFINISHED
    except (ValueError, KeyError, TypeError, AttributeError):
        return RECORD
    if recipe.perturbations == "stale" and (name := name_of(recipe.epochs, "stale")) not in digests:
        damaged.append(name)
    return damaged[0] if damaged else None


def start_over(path: Path, damaged: str) -> None:
    """Name what is damaged or missing and clear the run away."""
    log(f"{path / damaged} is damaged or missing: training starts again")
    (path / RECORD).unlink(missing_ok=True)  # first: the run is no longer complete
    for file in path.glob("*.safetensors"):
        file.unlink()


# One's own ---------------------------------------------------------------------------------------


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
