"""Small networks of a chapter's own: trained once, kept under their name and settings, and shipped with the book.

``runs/<key>-<name>/`` holds one: ``weights.safetensors`` and, written last, ``kept.json`` with its digest and origin.
``results/*/networks/`` holds those that travel, read only.
"""

import json
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from ..evidence.provenance import environment
from ..runtime import alone, changed, home, log, networks, note_use, write

RECORD, WEIGHTS = "kept.json", "weights.safetensors"


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
