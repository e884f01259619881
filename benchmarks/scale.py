"""How training grows: seconds an epoch and peak memory against images and width, and the time of loading CIFAR-10.

    python benchmarks/scale.py                                     # small defaults, under three minutes on one thread
    python benchmarks/scale.py --images 5000 50000 --widths 16 64 --device cuda

CIFAR-10 is read from NCLIB_DATA, else from ~/.cache/nclib, and never downloaded: where it is not there, random images
of its shape take its place, named so. Each row is a fresh process that has loaded its data before the peak is taken:
resident memory on a CPU, allocated memory on a GPU; "training" is what it adds to what was there before. An epoch is
timed as ``fit`` runs it, without measuring and saving, after one that warms up; median (lowest-highest). Growth is the
exponent of the line through logarithms.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import nclib as nc
from nclib.data import Dataset

sys.path.insert(0, str(Path(__file__).parent))
from training import Trainer, random_images

FOLDER = Path(os.environ.get("NCLIB_DATA") or Path.home() / ".cache" / "nclib") / "cifar-10-batches-py"
TARGET = 3.0  # seconds from CIFAR-10's files to tensors on the device


def load(images: int) -> Dataset:
    """CIFAR-10, as many training images of each class, or random images of its shape."""
    return nc.load("cifar10", per_class=images // 10) if FOLDER.is_dir() else random_images(images, digits=False)


def peak(device: str, forget: bool = False) -> float:
    """The most memory in MB so far, or since last forgotten. Not ru_maxrss: a child's starts at its parent's."""
    if device == "cuda":
        if forget:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 2**20
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 2**10


def cell(training: str, images: int, width: int, steps: int, repeats: int, device: str) -> dict:
    """Seconds of every timed epoch, the peak in MB and what training adds to it: the work of one fresh process."""
    recipe = nc.Recipe(
        dataset="cifar10", architecture="preactresnet18", training=training, width=width,
        batch=100, epsilon=8 / 255, step=2 / 255, steps=steps,
    )  # fmt: skip
    data = load(images)
    before = peak(device, forget=True)
    trainer = Trainer(recipe, data, device)
    trainer.epoch()
    seconds = [trainer.epoch() for _ in range(repeats)]
    return {"seconds": seconds, "peak": peak(device), "training": peak(device) - before}


def loading(device: str) -> dict:
    """Seconds from files to tensors on the device, and the peak in MB, imports and the device's start aside."""
    import torchvision.datasets  # noqa: F401

    torch.zeros(1, device=device)
    began = time.perf_counter()
    nc.load("cifar10").to(device)
    return {"seconds": time.perf_counter() - began, "peak": peak("cpu")}


def fresh(function, *words) -> dict:
    """Call one of the two above in a process of its own."""
    call = json.dumps([function.__name__, torch.get_num_threads(), words])
    done = subprocess.run([sys.executable, __file__, "--call", call], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def spread(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})"


def growth(sizes: list[int], values: list[float]) -> str:
    return f"{np.polyfit(np.log(sizes), np.log(values), 1)[0]:.2f}" if len(sizes) > 1 else "-"


def table(training: str, options) -> None:
    """Two sweeps that share a cell: images at the first width, widths at the first number of images."""
    images, widths, cells = options.images, options.widths, {}
    print(f"\n{training}\n{'images':>8}{'width':>8}{'s an epoch':>24}{'images/s':>10}{'of the first':>14}", end="")
    print(f"{'peak MB':>10}{'training MB':>13}")
    for size in [(n, widths[0]) for n in images] + [(images[0], w) for w in widths[1:]]:
        found = cells[size] = fresh(cell, training, *size, options.steps, options.repeats, options.device)
        found["median"] = statistics.median(found["seconds"])
        ratio = found["median"] / cells[images[0], widths[0]]["median"]
        rate = f"{size[0] / found['median']:10.0f}{ratio:14.2f}{found['peak']:10.0f}{found['training']:13.0f}"
        print(f"{size[0]:8}{size[1]:8}{spread(found['seconds']):>24}{rate}", flush=True)
    by_images, by_width = [cells[n, widths[0]] for n in images], [cells[images[0], w] for w in widths]
    for name, key in (("seconds", "median"), ("training memory", "training")):
        over_images = growth(images, [c[key] for c in by_images])
        print(f"{name} ~ images^{over_images}, width^{growth(widths, [c[key] for c in by_width])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 200, 400], help="in an epoch: tens")
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16, 32], help="channels of the first stage")
    parser.add_argument("--steps", type=int, default=10, help="of the attack in adversarial training")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--call", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.call:
        function, threads, words = json.loads(options.call)
        torch.set_num_threads(threads)
        print(json.dumps({"cell": cell, "loading": loading}[function](*words)))
        return
    place = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} thread(s)"
    there = FOLDER.is_dir()
    print(f"torch {torch.__version__}, {place}; PreActResNet-18, batches of 100, attacks of {options.steps} steps")
    print("CIFAR-10" if there else f"no CIFAR-10 in {FOLDER.parent} (NCLIB_DATA): random images of its shape instead")
    if there:
        loads = [fresh(loading, options.device) for _ in range(options.repeats)]
        times, most = [found["seconds"] for found in loads], max(found["peak"] for found in loads)
        print(f"\nloading all of it, {len(loads)} processes, imports aside: {spread(times)} s, peak {most:.0f} MB")
        print(f"wanted: {TARGET:.0f} s at most: {'met' if max(times) <= TARGET else 'missed'}")
    for training in ("standard", "adversarial"):
        table(training, options)


if __name__ == "__main__":
    main()
