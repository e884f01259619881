"""A bar in a terminal and in live Jupyter, one line per job in a log, nothing in a rendered page.

The runner sets ``NCLIB_LOG`` to a file: bars and lines then go there instead of into the notebook.
"""

import os
import sys
from collections.abc import Iterable

from tqdm.auto import tqdm


def progress(steps: Iterable, label: str, total: int) -> Iterable:
    """Iterate with a progress bar, where somebody watches."""
    if path := os.environ.get("NCLIB_LOG"):
        with open(path, "a") as file:
            yield from tqdm(
                steps, label, total, initial=total - len(steps), file=file, leave=False, mininterval=1, ncols=79
            )
    else:
        watched = sys.stderr.isatty() or "ipykernel" in sys.modules
        yield from tqdm(steps, label, total, initial=total - len(steps), disable=not watched, leave=False)


def log(line: str) -> None:
    """One line about a long job: to the runner's log, or to stderr outside notebooks."""
    if path := os.environ.get("NCLIB_LOG"):
        with open(path, "a") as file:
            file.write(line + "\n")
    elif "ipykernel" not in sys.modules:
        print(line, file=sys.stderr)
