"""What proofs of robustness cost: programs by route, scenes by method and network, memory and its cap.

    python benchmarks/verification.py     # about two minutes on one thread

Networks are those of the chapter, trained here for a few steps where they are not kept. Times are CPU seconds of one
thread; every route solves the same programs in the same run, in turn; median (lowest-highest) over the repeats.
"""

import argparse
import statistics
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linprog

sys.path.insert(0, str(Path(__file__).parents[1]))
from nclib.neighbours import bounds, scenes, stars, verdicts
from nclib.training.kept import kept

TRAINED = dict(scenes_seen=3000, steps=800, batch=32)


def seconds(work):
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def network(name: str):
    how = dict(dataset="digits", seed=1)
    tensors = kept(name, how | TRAINED, lambda: scenes.trained(name, **how, **TRAINED))
    net = scenes.network(name, **how)
    net.load_state_dict(tensors)
    return stars.lifted(net)


def plain(out, forms, A) -> np.ndarray:
    """Every program whole, one after the other."""
    ends = np.stack([out.lower.numpy(), out.upper.numpy()], axis=1)
    return np.array([f[0] - linprog(-f[1:], A, out.d, bounds=ends, method="highs").fun for f in forms])


def alone(out, forms) -> np.ndarray:
    """Cut to cones, each in a call of its own."""
    return np.concatenate([stars.maximise(out, form[None]) for form in forms])


def routes(nets, image, count: int, repeats: int) -> None:
    print(f"1. Milliseconds a program, {count} leads of the output, {repeats} repeats (all bounds within 1e-6)")
    head = ("linprog, dense", "linprog, sparse", "cones, one by one", "cones, together")
    print(f"{'':24}{'predicates':>11}" + "".join(f"{h:>26}" for h in head) + f"{'dense / together':>26}")
    for name in ("average", "dilated", "deep"):
        for share in (0.0, 1.0):
            out = stars.reach(nets[name], verdicts.darkened(image, 20, 0.3 if name == "deep" else 1.0), share)
            low, _ = verdicts.margins(out, torch.zeros(image.shape[1:], dtype=torch.long))
            places = np.unravel_index(low.flatten().argsort()[:count].numpy(), low.shape)
            forms = (out.images[:, places[0], places[1], places[2]] - out.images[:, 0, places[1], places[2]]).T.numpy()
            ways = (
                lambda out=out, forms=forms: plain(out, forms, out.A.toarray()),
                lambda out=out, forms=forms: plain(out, forms, out.A),
                lambda out=out, forms=forms: alone(out, forms),
                lambda out=out, forms=forms: stars.maximise(out, forms),
            )
            rounds = [[seconds(way) for way in ways] for _ in range(repeats)]
            assert all(np.abs(found - rounds[0][0][1]).max() < 1e-6 for _, found in rounds[0])
            times = [[1e3 * t / count for t, _ in one] for one in rounds]
            cells = [spread([t[i] for t in times]) for i in range(4)] + [spread([t[0] / t[3] for t in times])]
            print(f"{name + f', share {share:g}':24}{out.predicates:>11}" + "".join(f"{c:>26}" for c in cells))


def spread(values) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def throughput(nets, images) -> None:
    print("\n2. Scenes a minute, by network and method, one predicate, 20 pixels")
    for name, net in nets.items():
        size = 0.3 if name == "deep" else 1.0
        sets = [verdicts.darkened(image, 20, size) for image in images]
        of = [net(image[None].double()).argmax(1)[0] for image in images]
        methods = {
            "star, share 0": lambda s, r, net=net: verdicts.by_margins(stars.reach(net, s), r),
            "star, share 1": lambda s, r, net=net: verdicts.by_margins(stars.reach(net, s, 1.0), r),
            "share 0, programs": lambda s, r, net=net: verdicts.by_programs(stars.reach(net, s), r),
            "exact line": lambda s, r, net=net: verdicts.by_line(net, s, r),
        }
        if name != "maximum":
            methods["zonotope"] = lambda s, r, net=net: verdicts.by_margins(bounds.zonotope(net, s), r)
        if name == "average":
            methods["CROWN"] = lambda s, r, net=net: verdicts.by_crown(net, s, r)
        told = []
        for method, work in methods.items():
            taken = sum(seconds(lambda w=work, s=s, r=r: w(s, r))[0] for s, r in zip(sets, of))
            told.append(f"{method} {60 * len(sets) / max(taken, 1e-9):.0f}")
        print(f"   {name} (size {size:g}): " + ", ".join(told))


def canvas() -> None:
    print("\n3. Canvas and depth: seconds a scene at share 0, untrained networks, 20 pixels, size 0.3")
    for dataset in scenes.CANVAS:
        height, width, _ = scenes.CANVAS[dataset]
        image = (torch.rand(1, height, width, generator=torch.Generator().manual_seed(0)) > 0.9).float()
        for name in ("average", "deep"):
            net = stars.lifted(scenes.network(name, dataset, 1))
            taken, out = seconds(lambda net=net, image=image: stars.reach(net, verdicts.darkened(image, 20, 0.3)))
            print(f"   {height}x{width}, {name}: {taken:.2f} s, {out.predicates} predicates")


def memory(net, image) -> None:
    print("\n4. Memory of a star, network average, share 1: generators, and the most that is held meanwhile")
    for count in (5, 20, 60):
        tracemalloc.start()
        out = stars.reach(net, verdicts.darkened(image, count, 1.0), 1.0)
        _, most = tracemalloc.get_traced_memory()  # arrays of numpy; those of torch are counted by their size
        tracemalloc.stop()
        held = out.images.nelement() * 8 / 1e6
        print(f"   {out.predicates:5d} predicates: {held:7.1f} MB of generators, {most / 1e6:7.1f} MB of rows")
    try:
        stars.reach(net, verdicts.darkened(image, 60, 1.0), 1.0, memory=0.005)
    except MemoryError as error:
        print(f"   with a cap of 5 MB: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    nets = {name: network(name) for name in scenes.NETWORKS}
    images, _ = scenes.scenes("digits", "test", options.scenes)
    routes(nets, images[0], options.programs, options.repeats)
    throughput(nets, images)
    canvas()
    memory(nets["average"], images[0])


if __name__ == "__main__":
    main()
