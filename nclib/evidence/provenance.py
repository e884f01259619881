"""Where a result came from: device, versions, commit."""

import ast
import os
import platform
import re
import subprocess
import sys
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

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


def _git(*words: str) -> str:
    """What git says of this library's checkout; nothing where there is no git, or no checkout."""
    try:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def commit() -> str:
    """The commit of this library's checkout, with "+" where files have changed since; else "unknown"."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return head + ("+" if _git("status", "--porcelain", "--", ".") else "") if head else "unknown"


def branch() -> str:
    """The branch checked out, "main" where there is none."""
    return _git("branch", "--show-current") or "main"


def repository() -> str | None:
    """The checkout's public home, https://github.com/owner/name: ``NCLIB_REPOSITORY``, else git's origin, else None."""
    url = os.environ.get("NCLIB_REPOSITORY") or _git("remote", "get-url", "origin")
    found = re.fullmatch(r"(?:https://github\.com/|git@github\.com:)([\w.-]+/[\w.-]+?)(?:\.git)?/?", url)
    return f"https://github.com/{found[1]}" if found else None


@cache
def library_key(folder: Path = Path(__file__).parents[1]) -> str:
    """Hash of this library as Python reads it: its syntax trees, and the bytes of its files in other languages."""
    digest = sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            content = syntax(file.read_text("utf-8")).encode() if file.suffix == ".py" else file.read_bytes()
            digest.update(f"{file.relative_to(folder).as_posix()}\0".encode() + content)
    return digest.hexdigest()


def syntax(code: str) -> str:
    """A module's syntax tree as text: comments, docstrings and layout leave no trace in it."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        match node:
            case ast.AST(body=[ast.Expr(value=ast.Constant(value=str())), *rest]):
                node.body = rest
    return ast.dump(tree)


def device_name(device="cpu") -> str:
    """The device in words: a GPU's name, or the processor's and the threads in use."""
    import torch  # here, as who asks for versions need not wait for it

    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{model or platform.machine()} CPU, {torch.get_num_threads()} of {os.cpu_count()} threads"


def peak_memory(device="cpu") -> float:
    """The most memory, in GB, that this process or one that it started has held; on a GPU, what it held there.

    NaN where the system does not tell.
    """
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # on Windows
        return float("nan")
    usage = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(usage) * (1 if sys.platform == "darwin" else 1024) / 1e9  # Linux counts in KiB


def environment(device="cpu") -> dict:
    """Device, versions and commit, as they go into every record."""
    return {"device": device_name(device), "versions": versions(), "commit": commit()}


def told(origins: list[dict]) -> dict[str, str]:
    """Device, commit and versions of several pages; where they differ, each."""
    found: dict[str, list[str]] = {}
    for origin in origins:
        for name, word in {"device": origin["device"], "commit": origin["commit"], **origin["versions"]}.items():
            found.setdefault(name, []).append(word)
    return {name: ", ".join(dict.fromkeys(words)) for name, words in found.items()}


def foot(origin: dict):
    """A page's last table, styled, as a frame would cut long words: parameters, networks, device, versions, commit."""
    dtypes, seconds, trained = origin["dtypes"], origin["training_seconds"], origin["trained"]
    networks = [
        f"{key}: {r['training']}, seed {r['seed']}, {r['epochs']} epochs, {dtypes[key]}, {seconds[key]:.0f} s, "
        f"trained {trained[key]}"
        for key, r in origin["recipes"].items()
    ]
    networks += [
        f"{key}: {one['name']}, seed {one['settings'].get('seed')}, {seconds[key]:.0f} s, trained {trained[key]}"
        for key, one in origin.get("kept", {}).items()
    ]
    parameters = (f"{name} {value}" for name, value in origin["parameters"].items() if name != "profile")
    lines = {
        "profile": origin["name"],
        "parameters": ", ".join(parameters),
        **_schedule(origin["recipes"]),
        "models (recipe key)": "; ".join(networks) or "none: this page trains its own, from the parameters above",
        "device": origin["device"],
        "this page": f"{origin['seconds']:.0f} s, training not already done included",
        "versions": ", ".join(f"{name} {v}" for name, v in origin["versions"].items()),
        "commit": origin["commit"],
    }
    return pd.Series(lines).to_frame().style.hide(axis="columns")


def _schedule(recipes: dict[str, dict]) -> dict[str, str]:
    """The schedule of a page's networks in words, where it has any."""
    for first in recipes.values():
        drops = " and ".join(f"{share:g}" for share in first["drops"])
        words = f"{first['epochs']} epochs (the paper: 400), learning rate down tenfold after {drops} of them"
        return {"schedule": words}
    return {}
