"""Is the book's robust accuracy one to believe, and what does it cost? The authors' AutoAttack in the same run.

    python benchmarks/robust.py            # one seed of the shipped digits networks, a quarter of an hour on one thread

Every row is one network at one epsilon: accuracy that is left on the test images, and CPU seconds. "one loss, fixed
step" is the paper's PGD with 100 steps; "adaptive step" is Auto-PGD on the same loss. The last columns are the goals:
at most 0.5 points above AutoAttack, at a third of its CPU time or less.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

import pandas as pd
from torch import Generator

sys.path.insert(0, str(Path(__file__).parents[1]))
import nclib as nc
from nclib.attacks.robust import unit_logits

BASE = nc.Recipe(epochs=60, batch=32)
NETWORKS = {
    "standard": (BASE, {"linf": (0.05, 0.1), "l2": (0.5,)}),
    "adversarial": (BASE.but(training="adversarial"), {"linf": (0.2, 0.25), "l2": (1.0,)}),
    "TRADES": (BASE.but(training="trades"), {"linf": (0.2, 0.25)}),
}


def rivals(model, x, y, epsilon: float, norm: str) -> dict:
    """Name -> a function that gives the accuracy that is left."""
    from pyautoattack import AutoAttack

    def fixed() -> float:
        return nc.accuracy(model, nc.pgd(model, x, y, epsilon, steps=100, norm=norm, generator=seeded()), y)

    def adaptive() -> float:
        return nc.accuracy(model, nc.apgd(unit_logits(model), x, y, epsilon, 100, norm, generator=seeded()), y)

    def autoattack() -> float:
        attack = AutoAttack(model, norm=norm.replace("l", "L"), eps=epsilon, seed=0)
        return nc.accuracy(model, attack.run_standard_evaluation(x, y, batch_size=len(x))[0], y)

    return {
        "fixed step": fixed,
        "adaptive step": adaptive,
        "nclib": lambda: nc.robust_accuracy(model, x, y, epsilon, norm, generator=seeded()),
        "AutoAttack": autoattack,
    }


def seeded() -> Generator:
    return Generator().manual_seed(0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=360)
    images = parser.parse_args().images
    warnings.simplefilter("ignore")
    rows = []
    for name, (recipe, budgets) in NETWORKS.items():
        run = nc.fit(recipe)
        x, y = (part[:images] for part in run.data.test)
        for norm, epsilons in budgets.items():
            for epsilon in epsilons:
                row = {"network": name, "norm": norm, "epsilon": epsilon}
                for rival, measured in rivals(run.model, x, y, epsilon, norm).items():
                    began = time.process_time()
                    row |= {rival: measured(), f"{rival}, s": time.process_time() - began}
                row["points above"] = 100 * (row["nclib"] - row["AutoAttack"])
                row["share of its time"] = row["nclib, s"] / row["AutoAttack, s"]
                print(" ".join(f"{k} {v:.3f}" if isinstance(v, float) else v for k, v in row.items()), flush=True)
                rows.append(row)
    table = pd.DataFrame(rows)
    print(f"\nat most {table['points above'].max():.1f} points above (wanted: 0.5 or less),", end=" ")
    print(f"at most {table['share of its time'].max():.2f} of its CPU time (wanted: 0.33 or less), {len(x)} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
