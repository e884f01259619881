"""What this machine and this checkout are: the first thing to ask of somebody whose numbers differ."""

import os

import torch

from nclib.compute import choose
from nclib.data import folder
from nclib.evidence.provenance import commit, versions
from nclib.known import DATASETS
from nclib.runtime import home


def report() -> str:
    """Device, precision and why, switches, threads, data, networks and versions, a line each."""
    found = {"device": _device(), "precision": _precision(), "switches": _switches(), "threads": _threads()}
    found |= {"home": f"{home()} ({commit()})", "data": _data(), "networks": _networks()}
    found["versions"] = ", ".join(f"{name} {version}" for name, version in versions().items())
    return "\n".join(f"{name:10s} {words}" for name, words in found.items())


def _device() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {torch.cuda.device_count()} of them, CUDA {torch.version.cuda}"
    why = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no CUDA device"
    return f"cpu, {torch.backends.cpu.get_cpu_capability()}: {why}"


def _precision() -> str:
    sizes = {"8 pixels": 8, "32 pixels": 32}
    return "; ".join(f"{name}: {c.name}, as {c.reason}" for name, c in ((n, choose(side=s)) for n, s in sizes.items()))


def _switches() -> str:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    on = {
        "TF32 convolutions in training": cudnn.allow_tf32,
        "TF32 products": matmul.allow_tf32,
        "cuDNN benchmark": cudnn.benchmark,
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }
    return ", ".join(f"{name} {'on' if value else 'off'}" for name, value in on.items()) + "; TF32 off in measuring"


def _threads() -> str:
    asked = os.environ.get("OMP_NUM_THREADS", "not set")
    return f"{torch.get_num_threads()} of {os.cpu_count()} cores (OMP_NUM_THREADS {asked})"


def _data() -> str:
    try:
        root = folder()
        there = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
        found = f"{root}: {', '.join(there) or 'nothing'}"
    except FileNotFoundError as error:
        found = str(error)
    return f"digits comes with scikit-learn; {found}; known: {', '.join(DATASETS)}"


def _networks() -> str:
    shipped = {p.parent.name: len(list(p.iterdir())) for p in sorted((home() / "results").glob("*/networks"))}
    own = len(list((home() / "runs").glob("*/recipe.json")))
    words = [f"{count} shipped for {profile}" for profile, count in shipped.items()]
    return ", ".join([*words, f"{own} trained here"])
