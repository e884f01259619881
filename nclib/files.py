"""Writing files so that a reader sees the old one or the new one, never a part."""

import errno
import os
from hashlib import sha256
from pathlib import Path


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
