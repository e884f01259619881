"""What is made once and kept under its settings: small networks of a chapter's own, and tables measured of a run.

``runs/<key>-<name>/`` holds a network: ``weights.safetensors`` and, written last, ``kept.json`` with its digest and
origin; a run's ``measures/`` its tables. ``results/*/networks/`` holds those that travel, read only.
"""

import json
import time
from collections.abc import Callable
from hashlib import sha256
from io import StringIO
from pathlib import Path

import pandas as pd

from ..evidence.provenance import environment
from ..runtime import alone, changed, home, log, networks, note_use, progress, read_sealed, write, write_sealed

RECORD, WEIGHTS = "kept.json", "weights.safetensors"
COLUMNS = ["epoch", "split", "view", "measure", "value"]


class Kept(dict):
    """Tensors by name, with the folder that they came from and its record: name, settings, seconds, device, commit."""

    def __init__(self, path: Path):
        from safetensors.torch import load_file  # here, as keys are made without PyTorch

        super().__init__(load_file(path / WEIGHTS))
        self.path, self.origin = path, json.loads((path / RECORD).read_text())

    @property
    def key(self) -> str:
        return self.path.name.partition("-")[0]

    @property
    def shipped(self) -> bool:
        """Did it travel with the book, made elsewhere?"""
        return self.path.parent != home() / "runs"


def key(name: str, settings: dict) -> str:
    """Hash of a name and all that is set under it. TypeError for settings that JSON does not know."""
    return sha256(json.dumps([name, settings], sort_keys=True).encode()).hexdigest()[:12]


def kept(name: str, settings: dict, make: Callable[[], dict]) -> Kept:
    """What ``make()`` gave for these settings, tensors by name: kept here, or shipped, or else made now.

    ``settings`` must hold all that the result depends on; raise a number among them where ``make`` itself changes.
    Shipped ones are not looked for where NCLIB_FRESH is set. A damaged file is named and not used.
    """
    folder = f"{key(name, settings)}-{name}"
    path = home() / "runs" / folder
    found = next(filter(_sound, (place / folder for place in networks(path.parent))), None)
    if found is None:
        with alone(path / "lock", name):
            if not _sound(path):  # another process may have made it meanwhile
                _make(path, name, settings, make)
        found = path
    note_use(folder)
    return Kept(found)


def _sound(path: Path) -> bool:
    if not (path / RECORD).exists():
        return False
    try:
        record = json.loads((path / RECORD).read_text())
        wrong = changed(path, record["sha256"]) or [RECORD] * (key(record["name"], record["settings"]) not in path.name)
    except (ValueError, KeyError, TypeError):
        wrong = [RECORD]
    if wrong:
        log(f"{path / wrong[0]} is damaged or missing: not used")
    return not wrong


def _make(path: Path, name: str, settings: dict, make: Callable[[], dict]) -> None:
    from safetensors.torch import save  # here, as above

    log(f"{name}: made here")
    began = time.process_time()
    tensors = {tensor: value.detach().cpu().contiguous() for tensor, value in make().items()}
    seconds = round(time.process_time() - began, 1)
    (path / RECORD).unlink(missing_ok=True)
    digests = {WEIGHTS: write(path / WEIGHTS, save(tensors))}
    record = {"name": name, "settings": settings, "seconds": seconds, **environment(), "sha256": digests}
    write(path / RECORD, json.dumps(record, indent=1))  # last: its presence says "complete"


def through(run, settings: dict, measure: Callable) -> pd.DataFrame:
    """``measure(run, epoch, settings)`` at every kept epoch, in one table of ``COLUMNS``, kept beside the run under its
    settings (all that decides a value, a version among them) and not measured twice."""
    settings = settings | {"weights": run.origin["sha256"]["model.safetensors"]}
    name = f"{sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]}.csv"
    beside, here = run.path / "measures", run.root / run.path.name / "measures"
    table = max((_kept(folder / name, settings) for folder in (beside, here)), key=len)
    if left := [epoch for epoch in run.epochs if epoch not in set(table.epoch)]:
        whole = run if all(map(run.has, left)) else run.whole()
        if whole is not run:
            return through(whole, settings, measure)
        table = _measured_and_kept(run, settings, measure, here / name)
    return table


def _measured_and_kept(run, settings: dict, measure: Callable, file: Path) -> pd.DataFrame:
    """Every kept epoch; what another process has done is not done again. A folder that can only be read keeps none."""
    try:
        with alone(file.with_suffix(".lock"), run.recipe.label):
            return _completed(_kept(file, settings), run, settings, measure, file)
    except PermissionError as error:
        log(f"{error}; measures are not kept")
        return _completed(_kept(file, settings), run, settings, measure, None)


def _completed(table: pd.DataFrame, run, settings: dict, measure: Callable, file: Path | None) -> pd.DataFrame:
    """A table with the epochs that it lacks, each put on disk, where there is a file for it, as soon as measured."""
    left = [epoch for epoch in run.epochs if epoch not in set(table.epoch)]
    for epoch in progress(left, f"{run.recipe.label}: measures", len(left)):
        table = pd.concat([t for t in (table, measure(run, epoch, settings)) if len(t)], ignore_index=True)
        if file:
            write_sealed(file, settings, table.to_csv(index=False))
    return table


def _kept(file: Path, settings: dict) -> pd.DataFrame:
    body = read_sealed(file, settings)
    return pd.read_csv(StringIO(body)) if body else pd.DataFrame(columns=COLUMNS)
