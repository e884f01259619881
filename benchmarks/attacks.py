"""What a PGD step costs, beside the bare model and beside other libraries: all rivals in one run, interleaved.

    python benchmarks/attacks.py                                # small defaults, about two minutes on one thread
    python benchmarks/attacks.py --torchattacks PYTHON          # an interpreter in whose environment torchattacks lives

"bare" is what no attack can avoid: a forward pass and a backward pass to the input, as often as the attack steps.
Every contender makes the same steps from the same start (x itself) on the same network, in float32 unless its name
says otherwise. Ratios are taken within a round, so that a busy machine slows both sides; median (lowest-highest).
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import nclib as nc
from nclib.compute import choose

EPSILON, STEP = 8 / 255, 2 / 255
CASES = {  # architecture, image shape, width, batch
    "PreActResNet-18, 32x32": ("preactresnet18", (3, 32, 32), 64, 16),
    "PreActResNet-18 at width 16, 32x32": ("preactresnet18", (3, 32, 32), 16, 64),
    "digits network, 8x8": ("preactresnet8", (1, 8, 8), 16, 128),
}


def contenders(model: nn.Module, x, y, steps: int) -> dict:
    """Name -> a function that attacks once. Rivals that are not installed are left out."""
    lean = dict(epsilon=EPSILON, step=STEP, steps=steps, start=None)
    frozen = copy.deepcopy(model).requires_grad_(False)
    fast = choose("bfloat16", x.device)
    low, x_low = fast.lay_out(copy.deepcopy(model)), fast.lay_out(x)
    last, x_last = copy.deepcopy(model).to(memory_format=torch.channels_last), fast.lay_out(x)

    def bare(network):
        for _ in range(steps):
            delta = torch.zeros_like(x).requires_grad_()
            torch.autograd.grad(F.cross_entropy(network(x + delta), y, reduction="sum"), delta)

    def in_bfloat16():
        with fast.autocast():
            nc.pgd(low, x_low, y, **lean)

    found = {
        "bare": lambda: bare(model),
        "bare, parameters frozen": lambda: bare(frozen),
        "nclib": lambda: nc.pgd(model, x, y, **lean),
        "nclib l2": lambda: nc.pgd(model, x, y, **lean | dict(epsilon=0.5, step=15 / 255, norm="l2")),
        "nclib channels last": lambda: nc.pgd(last, x_last, y, **lean),
        "nclib bfloat16 + channels last": in_bfloat16,
    }
    for rival in (advertorch, foolbox, torchattacks):
        try:
            with warnings.catch_warnings(action="ignore"):
                found |= rival(model, x, y, steps)
        except ImportError:
            pass
    return found


def advertorch(model, x, y, steps) -> dict:
    from nclib.attacks.zoo import zoo

    options = dict(eps=EPSILON, eps_iter=STEP, nb_iter=steps, rand_init=False)
    installed = zoo()["LinfPGDAttack"](copy.deepcopy(model), **options)
    return {
        "advertorch": lambda: installed.perturb(x, y),
        "advertorch by nclib.attack": lambda: nc.attack("LinfPGDAttack", model, x, y, **options),
    }


def foolbox(model, x, y, steps) -> dict:
    import foolbox as fb

    wrapped = fb.PyTorchModel(copy.deepcopy(model), bounds=(0, 1), device=x.device)
    rival = fb.attacks.LinfPGD(rel_stepsize=STEP / EPSILON, steps=steps, random_start=False)
    return {"foolbox": lambda: rival.run(wrapped, x, y, epsilon=EPSILON)}


def torchattacks(model, x, y, steps) -> dict:
    import torchattacks as ta

    rival = ta.PGD(copy.deepcopy(model), eps=EPSILON, alpha=STEP, steps=steps, random_start=False)
    return {"torchattacks": lambda: rival(x, y)}


def measure(case: str, steps: int, repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of every contender in every round."""
    architecture, shape, width, batch = CASES[case]
    torch.manual_seed(0)
    model = nc.build(architecture, shape, 10, (0.5,) * shape[0], (0.25,) * shape[0], width).to(device).eval()
    x, y = torch.rand(batch, *shape, device=device), torch.randint(0, 10, (batch,), device=device)
    runs = contenders(model, x, y, steps)
    seconds = {name: [] for name in runs}
    names = list(runs)
    for round_ in range(repeats + 1):  # the first one warms up
        names.append(names.pop(0))  # nobody always comes after the same rival
        for name in names:
            began = time.perf_counter()
            runs[name]()
            if device == "cuda":
                torch.cuda.synchronize()
            if round_:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(seconds: dict, name: str, base: str) -> str:
    found = [a / b for a, b in zip(seconds[name], seconds[base])]
    return f"{statistics.median(found):5.2f} ({min(found):.2f}-{max(found):.2f})"


def show(case: str, seconds: dict, steps: int) -> None:
    print(f"\n{case}, batch {CASES[case][3]}\n{'':32}{'ms a step':>10}   {'to bare':18}{'nclib to it'}")
    for name, times in seconds.items():
        step = 1000 * statistics.median(times) / steps
        print(f"{name:32}{step:10.1f}   {ratio(seconds, name, 'bare'):18}{ratio(seconds, 'nclib', name)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--case", choices=CASES, action="append", help="one case only; may be given again")
    parser.add_argument("--torchattacks", metavar="PYTHON", help="also run all in this interpreter, which has it")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = {c: measure(c, options.steps, options.repeats, options.device) for c in options.case or CASES}
    if options.json:
        print(json.dumps(found))
        return
    place = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} thread(s)"
    print(f"torch {torch.__version__}, {place}; {options.steps} steps, {options.repeats} rounds")
    for case, seconds in found.items():
        show(case, seconds, options.steps)
    if options.torchattacks:
        words = [a for a in sys.argv[1:] if a not in ("--torchattacks", options.torchattacks)]
        done = subprocess.run([options.torchattacks, __file__, *words, "--json"], stdout=subprocess.PIPE, check=True)
        print("\nIn the environment of torchattacks:")
        for case, seconds in json.loads(done.stdout.splitlines()[-1]).items():
            kept = {n: t for n, t in seconds.items() if n in ("bare", "nclib", "torchattacks")}
            show(case, kept, options.steps)


if __name__ == "__main__":
    main()
