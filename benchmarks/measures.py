"""What measuring costs: against the authors' way of computing, by size, by layer, and beside training.

    python benchmarks/measures.py [--samples 5000] [--images 512] [--repeats 5]

Runs on one CPU thread, on random features and images, and prints four tables. Times are the processor's, so that a
neighbour's load counts less. Every ratio is of times taken in turn within one run; its spread is the smallest and the
largest over the repeats.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from _gauge import Peak, seconds
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

import nclib as nc
from nclib.training.store import kept_epochs


def problem(N: int, d: int, C: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features about random means, labels, and a classifier: float32, as a network gives them."""
    torch.manual_seed(0)
    y = torch.arange(N) % C
    return torch.randn(C, d)[y] + 0.5 * torch.randn(N, d), y, torch.randn(C, d), torch.randn(C)


def as_the_authors_do(h: Tensor, y: Tensor, W: Tensor, b: Tensor) -> dict[str, float]:
    """The same by their way: a d x d outer product per sample, a pseudo-inverse, a loop for the nearest centre."""
    C = len(W)
    M = torch.stack([h[y == c].mean(0) for c in range(C)])
    centred = M - h.mean(0)
    sigma_W = torch.zeros(h.shape[1], h.shape[1])
    for x, c in zip(h, y):
        sigma_W += torch.outer(x - M[c], x - M[c])
    sigma_B = centred.T @ centred / C
    nc1 = np.trace((sigma_W / len(h)).numpy() @ np.linalg.pinv(sigma_B.numpy(), rcond=1e-5))
    disagree = 0
    for x in h:
        disagree += int((M - x).norm(dim=1).argmin()) != int((W @ x + b).argmax())
    cosines = F.normalize(centred) @ F.normalize(centred).T + 1 / (C - 1)
    lengths = centred.norm(dim=1)
    return {
        "nc1": float(nc1),
        "nc4": disagree / len(h),
        "equinorm": float(lengths.std() / lengths.mean()),
        "equiangle": float((cosines.abs().sum() - cosines.diagonal().abs().sum()) / (C * (C - 1))),
        "nc3": float((W / W.norm() - centred / centred.norm()).square().sum()),
    }


def against_the_authors(N: int, repeats: int) -> None:
    torch.zeros(7 * 2**20)  # once 28 MB have come and gone the allocator keeps its pages, for both
    arguments = problem(N, 512, 10)
    ours, theirs = nc.measure(*arguments), as_the_authors_do(*arguments)
    times = []
    for _ in range(repeats):
        times.append((seconds(lambda: as_the_authors_do(*arguments)), seconds(lambda: nc.measure(*arguments))))
    slow, fast = np.median(times, axis=0)
    ratios = [a / b for a, b in times]
    print(f"1. One measurement, N = {N:,}, d = 512, C = 10 ({repeats} repeats)")
    print(f"   the authors' way {slow * 1e3:8.1f} ms")
    print(f"   nclib.measure    {fast * 1e3:8.1f} ms")
    print(
        f"   ratio            {np.median(ratios):8.0f} x   ({min(ratios):.0f} to {max(ratios):.0f}; wanted: 30 or more)"
    )
    gaps = {name: abs(ours[name] - value) / max(abs(value), 1e-12) for name, value in theirs.items()}
    print(f"   relative gaps    {', '.join(f'{name} {gap:.0e}' for name, gap in gaps.items())}\n")


def growth(repeats: int) -> None:
    sizes = {"N": (2000, 8000, 32000), "d": (512, 2048, 8192), "C": (25, 50, 100)}
    base = {"N": 2000, "d": 512, "C": 10}
    rows = []
    for name, values in sizes.items():
        times = []
        for value in values:
            h, y, W, b = problem(**(base | {name: value}))
            times.append(min(seconds(lambda: nc.measure(h, y, W, b)) for _ in range(repeats + 1)))
        exponent = np.polyfit(np.log(values), np.log(times), 1)[0]
        rows.append([name, " ".join(map(str, values)), " ".join(f"{1e3 * t:.1f}" for t in times), f"{exponent:.2f}"])
    print("2. How time grows, the others at N = 2,000, d = 512, C = 10 (wanted: exponents of 1 at most)")
    print(pd.DataFrame(rows, columns=["size", "values", "ms", "exponent"]).to_string(index=False), "\n")


def walk(images: int, repeats: int, batch: int = 128) -> None:
    torch.manual_seed(0)
    model = nc.build("preactresnet18", (3, 32, 32), 10, (0.5,) * 3, (0.25,) * 3, width=64).eval()
    pictures, labels = torch.rand(images, 3, 32, 32), torch.arange(images) % 10
    clean = nc.View("clean", pictures, labels)
    moved = nc.View("moved", (pictures + 0.05 * torch.randn_like(pictures)).clamp(0, 1), labels)

    @torch.no_grad()
    def forward():
        for x in pictures.split(batch):
            model(x)

    forward()
    rows = []
    for _ in range(repeats):
        with Peak() as plain:
            one = seconds(forward)
        with Peak() as measuring:
            walked = seconds(lambda: nc.propagate(model, [clean], batch=batch))
        both = seconds(lambda: nc.propagate(model, [clean, moved], batch=batch))
        rows.append([walked / one, both / one / 2, plain.most, measuring.most - plain.most])
    table = pd.DataFrame(rows, columns=["one view", "two views, each", "forward MB", "beyond MB"])
    print(f"3. propagate, PreActResNet-18 at width 64, {images:,} images of 32 x 32, batch {batch}, {repeats} repeats")
    for name, wanted in (("one view", "3 or fewer"), ("two views, each", "3 or fewer")):
        t = table[name]
        print(
            f"   plain forward passes, {name:16} {t.median():5.2f}   ({t.min():.2f} to {t.max():.2f}; wanted: {wanted})"
        )
    print(f"   memory of a plain forward pass     {table['forward MB'].max():7.0f} MB")
    print(f"   beyond that, measuring every layer {table['beyond MB'].max():7.0f} MB  (wanted: 1,000 or less)\n")


def beside_training(images: int, repeats: int, epochs: int = 100) -> None:
    torch.manual_seed(0)
    model = nc.build("preactresnet18", (3, 32, 32), 10, (0.5,) * 3, (0.25,) * 3, width=64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    pictures, labels = torch.rand(images, 3, 32, 32), torch.arange(images) % 10
    clean = nc.View("clean", pictures, labels)
    test = nc.View("clean", pictures[: images // 5], labels[: images // 5], "test")

    def epoch():
        for x, y in zip(pictures.split(128), labels.split(128)):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    epoch()
    points = len(kept_epochs(epochs))
    shares = [
        points / epochs * seconds(lambda: nc.collapse(model, [clean, test])) / seconds(epoch) for _ in range(repeats)
    ]
    low, high = min(shares), max(shares)
    print(f"4. Measuring training and test data at {points} log-spaced epochs of {epochs}, standard training")
    print(f"   share of training {np.median(shares):.1%}   ({low:.1%} to {high:.1%}; wanted: 10 % or less)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=5000, help="samples of table 1 (5,000)")
    parser.add_argument(
        "--images", type=int, default=512, help="images of tables 3 and 4 (512; 10,000 takes some minutes)"
    )
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    against_the_authors(chosen.samples, chosen.repeats)
    growth(chosen.repeats)
    walk(chosen.images, chosen.repeats)
    beside_training(chosen.images, chosen.repeats)


if __name__ == "__main__":
    main()
