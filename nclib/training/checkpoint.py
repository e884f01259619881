"""What a training has behind it, on disk: saved whole, resumed where it is sound, cleared away where it is not."""

import json
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

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
