"""What tangent kernels cost: a network's kernel layer by layer against whole Jacobians, and how both kinds grow.

    python benchmarks/kernel.py [--repeats 5]

Runs on one CPU thread in float64 and prints three tables. Times are the processor's, so that a neighbour's load counts
less. Rivals are timed in turn within one run; a ratio's spread is the smallest and the largest over the repeats.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _gauge import Peak, seconds
from torch import Tensor
from torch.func import functional_call, jacrev, jvp, vjp, vmap

sys.path.insert(0, str(Path(__file__).parents[1]))

import nclib as nc
from nclib.neighbours import finite, kernel


def by_parameter(model, x: Tensor) -> Tensor:
    """Jacobians of every image, contracted tensor by tensor: no matrix of images by all parameters is joined."""
    weights = {name: p.detach() for name, p in model.named_parameters()}
    of_one = jacrev(lambda w, image: functional_call(model, w, (image[None],))[0])
    found = vmap(of_one, (None, 0))(weights, x)
    return sum(torch.einsum("ncp,mep->ncme", j.flatten(2), j.flatten(2)) for j in found.values())


def by_products(model, x: Tensor) -> Tensor:
    """Products of the kernel with unit vectors, backward then forward, as PyTorch's tutorial does; for each pair."""
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def pair(one, other):
        def answer(image):
            return lambda w: functional_call(model, w, (image[None],))[0]

        _, back = vjp(answer(other), weights)
        return vmap(lambda v: jvp(answer(one), (weights,), back(v))[1])(torch.eye(10, dtype=x.dtype)).T

    return vmap(vmap(pair, (None, 0)), (0, None))(x, x).transpose(1, 2)


WAYS = {
    "whole Jacobians": finite.jacobian_kernel,
    "tensor by tensor": by_parameter,
    "vector products": by_products,
    "layer by layer": finite.empirical_kernel,
    "the same, trace": lambda model, x: finite.empirical_kernel(model, x, trace=True),
}


def rivals(repeats: int) -> None:
    print(f"1. The kernel of a network on N images, ms ({repeats} repeats; wanted: layer by layer 10 x or more)")
    rows = []
    for hidden, N, skipped in ((128, 10, ()), (128, 50, ("vector products",)), (512, 10, ("vector products",))):
        model, x = finite.mlp([64, hidden, hidden, 10], 0).double(), torch.rand(N, 64, dtype=torch.float64)
        ways = {name: way for name, way in WAYS.items() if name not in skipped}
        reference = finite.jacobian_kernel(model, x)
        gaps = [float((way(model, x) - reference).abs().max() / reference.abs().max())
                for name, way in ways.items() if "trace" not in name]  # fmt: skip
        times = pd.DataFrame([{name: seconds(lambda: way(model, x)) for name, way in ways.items()}
                              for _ in range(repeats)])  # fmt: skip
        ratios = times["whole Jacobians"] / times["layer by layer"].clip(lower=1e-6)
        middle = {name: f"{1e3 * t:.1f}" for name, t in times.median().items()}
        gain = f"{ratios.median():.0f} x ({ratios.min():.0f} to {ratios.max():.0f})"
        rows.append({"net": f"64-{hidden}-{hidden}-10", "N": N} | middle | {"gain": gain, "gap": f"{max(gaps):.0e}"})
    print(pd.DataFrame(rows).fillna("–").T.to_string(header=False), "\n")


def fitted(name: str, values, run, repeats: int, wanted: str) -> list:
    """A row of table 2: times at several sizes, and the exponent of the line through their logarithms."""
    times = [min(seconds(work) for _ in range(repeats)) for work in map(run, values)]
    exponent = np.polyfit(np.log(values), np.log(times), 1)[0]
    shown = " ".join(f"{1e3 * t:.1f}" for t in times)
    return [name, " ".join(map(str, values)), shown, f"{exponent:.2f}", wanted]


def images(N: int, d: int = 256) -> Tensor:
    return torch.rand(N, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def attack_of(N: int):
    x = images(N).float()
    rule = kernel.predictor(kernel.relu_kernel, x, torch.randn(N, 10))
    seen, labels = x[:100], torch.zeros(100, dtype=torch.int64)
    return lambda: nc.pgd(rule, seen, labels, epsilon=0.1, step=0.1, steps=1, start=None)


def matrix_of(N: int):
    x = images(N, 64)
    K = kernel.relu_kernel(x)
    return lambda: kernel.spectrum(K)


def network_of(width: int, N: int = 20):
    model, x = finite.mlp([64, width, width, 10], 0).double(), images(N, 64)
    return lambda: finite.empirical_kernel(model, x)


def growth(repeats: int) -> None:
    print("2. How time grows: ms at several sizes, and the fitted exponent")
    sizes, small = (500, 1000, 2000), (250, 500, 1000)
    rows = [
        fitted("closed form, N", sizes, lambda N: partial(kernel.relu_kernel, images(N)), repeats, "2"),
        fitted("closed form, pixels", (512, 2048, 8192),
               lambda d: partial(kernel.relu_kernel, images(500, d)), repeats, "below 1"),
        fitted("closed form, depth", (2, 4, 8),
               lambda L: partial(kernel.relu_kernel, images(800), depth=L), repeats, "1"),
        fitted("factoring, N", small, matrix_of, repeats, "3"),
        fitted("attack step on 100 images, N", sizes, attack_of, repeats, "1"),
        fitted("layer by layer, N", (50, 100, 200), lambda N: network_of(128, N), repeats, "2"),
        fitted("layer by layer, width", (256, 512, 1024), network_of, repeats, "1 to 2"),
    ]  # fmt: skip
    print(pd.DataFrame(rows, columns=["what, against", "sizes", "ms", "exponent", "expected"]).to_string(index=False))
    print()


def memory(N: int = 3000) -> None:
    x = images(N)
    rows = []
    for count in (50, 300, N):
        with Peak() as peak:
            took = seconds(lambda: kernel.relu_kernel(x, rows=count))
        rows.append([count, f"{peak.most:.0f}", f"{took:.2f}"])
    print(f"3. Memory is a choice: the closed form of {N:,} images, whose matrix has {8 * N * N / 2**20:.0f} MB")
    print(pd.DataFrame(rows, columns=["rows at a time", "most, MB", "s"]).to_string(index=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    rivals(repeats)
    growth(repeats)
    memory()


if __name__ == "__main__":
    main()
