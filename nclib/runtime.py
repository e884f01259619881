"""What long jobs need: a home, whole files, locks, a word on how far they are, and helpers that end with them.

A job tells by a bar where somebody watches, by lines in a log, by nothing in a rendered page: the runner sets
``NCLIB_LOG`` to a file, and bars and lines go there instead of into the notebook.
"""

import errno
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

from filelock import FileLock, Timeout
from tqdm import tqdm

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


def home() -> Path:
    """The folder that holds ``runs``: ``NCLIB_HOME``, else the checkout around here, else here."""
    if chosen := os.environ.get("NCLIB_HOME"):
        return Path(chosen).absolute()
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "nclib").is_dir() and (p / "book").is_dir()), here)


def write(file: Path, content: bytes | str) -> str:
    """Write a whole file or nothing, down to the disk. Returns the content's sha256.

    Raises OSError naming the file, and leaves the old one, when the disk is full.
    """
    content = content.encode() if isinstance(content, str) else content
    partial = file.with_name(file.name + ".part")
    try:
        with open(partial, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise OSError(errno.ENOSPC, f"disk full while writing {file.name}: free some space and run again") from None
        raise
    return sha256(content).hexdigest()


def changed(folder: Path, digests: dict[str, str]) -> list[str]:
    """The files of a folder that are missing, or not what was written: ``digests`` has their sha256 by name."""
    files = {folder / name: was for name, was in digests.items()}
    return [f.name for f, was in files.items() if not f.exists() or sha256(f.read_bytes()).hexdigest() != was]


def write_sealed(file: Path, settings: dict, body: str) -> None:
    """Write a text under one line that says what it is: its settings, and the digest of the body."""
    digest = sha256(body.encode()).hexdigest()
    write(file, f"# {json.dumps(settings | {'sha256': digest})}\n{body}")


def read_sealed(file: Path, settings: dict) -> str | None:
    """The body of a sealed text; None where there is none, or, said in a line, where it is not what was written."""
    if not file.exists():
        return None
    head, _, body = file.read_bytes().partition(b"\n")
    if head == f"# {json.dumps(settings | {'sha256': sha256(body).hexdigest()})}".encode():
        return body.decode()
    log(f"{file} is damaged: not used")
    return None


def progress(steps: Iterable, label: str, total: int) -> Iterator:
    """Iterate over the steps left of ``total`` (all, if they cannot be counted), with a bar where somebody watches."""
    done = total - len(steps) if isinstance(steps, Sized) else 0
    options = dict(desc=label, total=total, initial=done, leave=False, ncols=79, mininterval=1)
    if path := os.environ.get("NCLIB_LOG"):
        with open(path, "a", encoding="utf-8") as file:
            yield from tqdm(steps, file=file, **options)
    else:
        yield from tqdm(steps, disable=not (sys.stderr.isatty() or "ipykernel" in sys.modules), **options)


def log(line: str) -> None:
    """One line about a long job: to the runner's log, or to stderr outside notebooks."""
    if path := os.environ.get("NCLIB_LOG"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    elif "ipykernel" not in sys.modules:
        print(line, file=sys.stderr, flush=True)


def moving_line(words: str) -> None:
    """In a terminal, one line that the next one takes the place of; elsewhere nothing."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        print("\r" + words[:width].ljust(width), end="\r", file=sys.stderr, flush=True)


def networks(root: Path, shipped: bool | None = None) -> list[Path]:
    """Where trained networks are looked for: in ``root`` and then, unless ``shipped`` is False or, by default,
    NCLIB_FRESH is set, among those that travel with the book."""
    wanted = not os.environ.get("NCLIB_FRESH") if shipped is None else shipped
    return [root, *(sorted((home() / "results").glob("*/networks")) if wanted else [])]


def note_use(what: str) -> None:
    """Where the runner asks for it (``NCLIB_USED`` names a file), a line for every network that a page uses."""
    if path := os.environ.get("NCLIB_USED"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(what + "\n")


@contextmanager
def alone(file: Path, label: str):
    """Hold a lock file, its folder made if need be; wait, and say so, while another process has it.

    The system drops it if a process dies. PermissionError, in one line, for a folder that can only be read.
    """
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        log(f"{label}: waiting for another process that trains it")
        lock.acquire()
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        where = f"{file.parent} cannot be written ({error.strerror.lower()})"
        raise PermissionError(f"{label}: {where}: name another folder, as root=... or in NCLIB_HOME") from None
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


def spread(work: Callable, items: Sequence, label: str, jobs: int | None = None) -> list:
    """``work(item)`` for every item, in order, ``jobs`` at a time: processes of one thread each, or, for one, here.

    By default as many as there are cores, at most 4: small convolutions lose by sharing cores. ``NCLIB_JOBS`` stands
    for the cores where a machine is shared out among several runs. ``work`` must not be of the caller's own script.
    """
    jobs = min(jobs or int(os.environ.get("NCLIB_JOBS") or min(os.cpu_count() or 1, 4)), len(items))
    if jobs < 2:
        return [work(item) for item in items]
    with ProcessPoolExecutor(jobs, get_context("spawn"), _alone_on_a_core, (os.getpid(),)) as pool:
        with _no_script():
            done = pool.map(work, items)
        return list(progress(done, label, len(items)))


@contextmanager
def _no_script():
    """Helpers that start meanwhile do not run the caller's script again: it needs no ``if __name__ == "__main__"``."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _alone_on_a_core(parent: int) -> None:
    import torch  # here, as nothing else in this module needs it

    torch.set_num_threads(1)
    die_with(parent)
