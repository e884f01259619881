"""Claims beyond the paper: those of part two's chapters, each with thresholds fixed before its runs."""

from . import kernel, losses, spectrum, sphere, verification

CHAPTERS = (losses, sphere, kernel, spectrum, verification)
CLAIMS = tuple(claim for chapter in CHAPTERS for claim in chapter.CLAIMS)
SAID = {claim: sentences for chapter in CHAPTERS for claim, sentences in chapter.SAID.items()}
