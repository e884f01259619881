"""What proofs of robustness cost: a program by route, those spared, a scene by method and canvas, memory and its cap.

    python benchmarks/verification.py [--repeats 3]

Runs on one CPU thread and prints four tables, in about three minutes. Networks are those of the chapter. Times are the
processor's, so that a neighbour's load counts less. All routes solve the same programs in turn, in one run; a ratio's
spread is the smallest and the largest over the repeats.
"""

import argparse
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from _gauge import Peak, seconds
from scipy.optimize import linprog
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from nclib.neighbours import bounds, programs, scenes, stars, verdicts
from nclib.training.kept import kept

TRAINED = dict(scenes_seen=3000, steps=800, batch=32)


def network(name: str):
    how = dict(dataset="digits", seed=1)
    net = scenes.network(name, **how)
    net.load_state_dict(kept(name, how | TRAINED, lambda: scenes.trained(name, **how, **TRAINED)))
    return stars.lifted(net)


def map_of(net, image: Tensor) -> Tensor:
    return net(image[None].double()).argmax(1)[0]


def leads(out, reference: Tensor, count: int) -> np.ndarray:
    """The leads that are least clear over the box, as forms of the predicates."""
    low, _ = verdicts.margins(out, reference)
    c, i, j = np.unravel_index(low.flatten().argsort()[:count].numpy(), low.shape)
    return (out.images[:, c, i, j] - out.images[:, reference[i, j], i, j]).T.numpy()


def plain(out, forms: np.ndarray, A) -> np.ndarray:
    """Every program whole, one after the other: as one would write it first."""
    ends = np.stack([out.lower.numpy(), out.upper.numpy()], axis=1)
    return np.array([f[0] - linprog(-f[1:], A, out.d, bounds=ends, method="highs").fun for f in forms])


WAYS = {
    "linprog, dense": lambda out, forms: plain(out, forms, out.A.toarray()),
    "linprog, sparse": lambda out, forms: plain(out, forms, out.A),
    "cones, one by one": lambda out, forms: np.concatenate([stars.maximise(out, form[None]) for form in forms]),
    "cones, together": stars.maximise,
}


def routes(nets: dict, image: Tensor, count: int, repeats: int) -> None:
    print(f"1. Milliseconds a program against predicates ({count} leads of each star, share 1, {repeats} repeats)")
    rows = []
    for name, size in (("average", 0.05), ("average", 0.2), ("average", 0.5), ("average", 1.0), ("deep", 0.3)):
        out = stars.reach(nets[name], verdicts.darkened(image, 20, size), 1.0)
        forms = leads(out, map_of(nets[name], image), count)
        found = [way(out, forms) for way in WAYS.values()]
        gap = max(np.abs(other - found[0]).max() for other in found)
        times = pd.DataFrame([{w: seconds(lambda: way(out, forms)) for w, way in WAYS.items()} for _ in range(repeats)])
        ratios = times["linprog, dense"] / times["cones, together"].clip(lower=1e-6)
        gain = f"{ratios.median():.1f} x ({ratios.min():.1f} to {ratios.max():.1f})"
        each = dict(1e3 * times.median() / count)
        rows.append(
            {"network, size": f"{name}, {size:g}", "predicates": out.predicates} | each | {"gain": gain, "gap": gap}
        )
    table = pd.DataFrame(rows)
    told = {w: [f"{ms:.2f}" for ms in table[w]] for w in WAYS} | {"gap": [f"{g:.0e}" for g in table.gap]}
    print(table.assign(**told).to_string(index=False))
    slopes = {w: np.polyfit(np.log(table.predicates), np.log(table[w]), 1)[0] for w in WAYS}
    print("   exponents: " + "; ".join(f"{way} {slope:.2f}" for way, slope in slopes.items()), "\n")


def spared(nets: dict, image: Tensor, repeats: int) -> None:
    print(f"2. The star at share 0, every neuron asked and only those that no line settles ({repeats} repeats)")
    rows, star = [], verdicts.darkened(image, 20, 1.0)
    for name, net in nets.items():
        found, times = {}, {"all": [], "fewer": []}
        for _ in range(repeats):
            for way, bound in (("all", programs._by_box), ("fewer", programs._by_lines)):
                with mock.patch.object(programs, "_by_lines", bound):
                    times[way].append(seconds(lambda: found.update({way: stars.reach(net, star)})))
        ratios = np.array(times["all"]) / np.array(times["fewer"])
        gain = f"{np.median(ratios):.2f} x ({ratios.min():.2f} to {ratios.max():.2f})"
        solved = {way: out.counts["programs"] for way, out in found.items()}
        gap = max((a - b).abs().max() for a, b in zip(*(stars.ranges(out) for out in found.values())))
        rows.append({"network": name} | solved | {"gain": gain, "gap of ranges": f"{gap:.0e}"})
    print(pd.DataFrame(rows).to_string(index=False), "\n")


def throughput(nets: dict, image: Tensor, repeats: int) -> None:
    print("3. Scenes a minute, full line, 20 pixels: one scene on larger black canvases, by network and method")
    methods = {
        "star, share 0": lambda net, s, r: verdicts.by_margins(stars.reach(net, s), r),
        "star, share 1": lambda net, s, r: verdicts.by_margins(stars.reach(net, s, 1.0), r),
        "zonotope": lambda net, s, r: verdicts.by_margins(bounds.zonotope(net, s), r),
        "CROWN": verdicts.by_crown,
        "exact line": verdicts.by_line,
    }
    rows = []
    for name, factor in (("average", 1), ("average", 2), ("average", 4), ("dilated", 1), ("deep", 1)):
        net, (height, width) = nets[name], image.shape[1:]
        canvas = F.pad(image, (0, (factor - 1) * width, 0, (factor - 1) * height))
        star, reference = verdicts.darkened(canvas, 20, 1.0), map_of(net, canvas)
        relus = sum(isinstance(layer, torch.nn.ReLU) for layer in net)
        row = {"network": name, "ReLU layers": relus, "canvas": f"{canvas.shape[1]}x{canvas.shape[2]}"}
        for method, work in methods.items():
            row[method] = f"{60 / min(seconds(lambda: work(net, star, reference)) for _ in range(repeats)):.0f}"
        rows.append(row)
    print(pd.DataFrame(rows).to_string(index=False), "\n")


def memory(image: Tensor) -> None:
    print("4. Memory against predicates: stars of an untrained network on the canvas of MNIST, share 1")
    net, rows = stars.lifted(scenes.network("average", "mnist", 1)), []
    canvas = F.pad(image, (30, 30, 24, 24))
    for size in (0.1, 0.3, 1.0):
        with Peak() as peak:
            out = stars.reach(net, verdicts.darkened(canvas, 20, size), 1.0)
        held = out.images.nelement() * 8 / 2**20
        rows.append([out.predicates, f"{held:.0f}", f"{peak.most:.0f}"])
        del out
    print(pd.DataFrame(rows, columns=["predicates", "generators, MB", "most, MB"]).to_string(index=False))
    try:
        stars.reach(net, verdicts.darkened(canvas, 20, 1.0), 1.0, memory=0.05)
    except MemoryError as error:
        print(f"   with a cap of 0.05 GB: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--programs", type=int, default=16, help="programs that are timed on each star")
    options = parser.parse_args()
    torch.set_num_threads(1)
    nets = {name: network(name) for name in ("average", "dilated", "deep")}
    image = scenes.scenes("digits", "test", 1)[0][0]
    routes(nets, image, options.programs, options.repeats)
    spared(nets, image, options.repeats)
    throughput(nets, image, options.repeats)
    memory(image)


if __name__ == "__main__":
    main()
