"""Claims beyond the paper: ours of part one, and those of part two's chapters, thresholds fixed before their runs."""

from . import further, kernel, losses, spectrum, sphere, verification

CHAPTERS = (further, losses, sphere, kernel, spectrum, verification)
CLAIMS = tuple(claim for chapter in CHAPTERS for claim in chapter.CLAIMS)
SAID = {claim: sentences for chapter in CHAPTERS for claim, sentences in chapter.SAID.items()}
