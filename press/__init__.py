"""What makes the book: profiles, execution, site, print, comparison, sweeps. ``nclib`` knows nothing of it."""

from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"


class BookError(Exception):
    """One clear line for the person at the terminal."""
