"""Where a result came from: device, versions, commit."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "scikit-learn",
    "matplotlib",
    "seaborn",
    "papermill",
    "advertorch",
)


def versions() -> dict[str, str]:
    """Python's version and those of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of this library's checkout, with "+" where files have changed since; else "unknown"."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if git("status", "--porcelain", "--", ".") else "") if head else "unknown"
    except OSError:
        return "unknown"


def device_name(device: str | torch.device = "cpu") -> str:
    """The device in words: a GPU's name, or the processor's and the threads in use."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{model or platform.machine()} CPU, {torch.get_num_threads()} of {os.cpu_count()} threads"


def environment(device: str | torch.device = "cpu") -> dict:
    """Device, versions and commit, as they go into every record."""
    return {"device": device_name(device), "versions": versions(), "commit": commit()}


def home() -> Path:
    """The folder that holds ``runs``: ``NCLIB_HOME``, else the checkout around here, else here."""
    if chosen := os.environ.get("NCLIB_HOME"):
        return Path(chosen)
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "nclib").is_dir() and (p / "book").is_dir()), here)
