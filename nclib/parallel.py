"""Several recipes at once: one process for each on a CPU, one after the other on a GPU."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from .progress import die_with, progress
from .provenance import home
from .recipe import Recipe
from .train import Run, fit


def fit_all(recipes: Sequence[Recipe], root: str | Path | None = None, jobs: int | None = None) -> list[Run]:
    """``fit`` for every recipe, in order, trained ``jobs`` at a time (default: the cores, at most 4; 1 on a GPU).

    Each process keeps to one thread: small convolutions lose by sharing cores. Where a machine is shared out among
    several runs, ``NCLIB_JOBS`` stands for its cores.
    """
    cores = int(os.environ.get("NCLIB_JOBS") or os.cpu_count() or 1)
    jobs = jobs or (1 if torch.cuda.is_available() else min(cores, 4))
    left = [r for r in recipes if not (Path(root or home() / "runs") / r.key / "recipe.json").exists()]
    if jobs > 1 and len(left) > 1:
        with ProcessPoolExecutor(jobs, get_context("spawn"), die_with, (os.getpid(),)) as pool:
            for _ in progress(pool.map(_train, left, [root] * len(left)), "networks trained", len(left)):
                pass
    return [fit(recipe, root) for recipe in recipes]


def _train(recipe: Recipe, root: str | Path | None) -> None:
    torch.set_num_threads(1)
    fit(recipe, root)
