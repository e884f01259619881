"""Where a container runs under a bare number, the user has no name and no home folder: what others then ask for."""

import os
from getpass import getuser
from pathlib import Path
from tempfile import gettempdir


def settle() -> None:
    """A name for PyTorch, which wants one when an optimiser is made; a folder for matplotlib, when it is imported."""
    try:
        getuser()
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = f"user-{getattr(os, 'getuid', os.getpid)()}"
    try:
        Path.home()
    except RuntimeError:
        os.environ.setdefault("MPLCONFIGDIR", str(Path(gettempdir(), f"matplotlib-{getuser()}")))
