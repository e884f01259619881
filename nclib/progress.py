"""What a long job tells, and when it waits for another process or ends with it.

It tells by a bar where somebody watches, by lines in a log, by nothing in a rendered page: the runner sets
``NCLIB_LOG`` to a file, and bars and lines go there instead of into the notebook.
"""

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm


def progress(steps: Iterable, label: str, total: int) -> Iterator:
    """Iterate over the steps left of ``total`` (all, if they cannot be counted), with a bar where somebody watches."""
    done = total - len(steps) if isinstance(steps, Sized) else 0
    options = dict(desc=label, total=total, initial=done, leave=False, ncols=79, mininterval=1)
    if path := os.environ.get("NCLIB_LOG"):
        with open(path, "a") as file:
            yield from tqdm(steps, file=file, **options)
    else:
        yield from tqdm(steps, disable=not (sys.stderr.isatty() or "ipykernel" in sys.modules), **options)


def log(line: str) -> None:
    """One line about a long job: to the runner's log, or to stderr outside notebooks."""
    if path := os.environ.get("NCLIB_LOG"):
        with open(path, "a") as file:
            file.write(line + "\n")
    elif "ipykernel" not in sys.modules:
        print(line, file=sys.stderr, flush=True)


@contextmanager
def alone(file: Path, label: str):
    """Hold a lock file; wait, and say so, while another process has it. The system drops it if a process dies."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log(f"{label}: waiting for another process that trains it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def die_with(parent: int) -> None:
    """Stop when the parent process is gone: nobody waits for the result, and the state of a training is saved."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
