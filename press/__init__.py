"""What makes the book: profiles, execution, site, print, comparison, sweeps. ``nclib`` knows nothing of it."""

import shutil
import sys
from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"


class BookError(Exception):
    """One clear line for the person at the terminal."""


def moving_line(words: str) -> None:
    """In a terminal, one line that the next one takes the place of; elsewhere nothing."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        print("\r" + words[:width].ljust(width), end="\r", file=sys.stderr, flush=True)
