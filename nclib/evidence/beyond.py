"""Claims beyond the paper: those of part two's chapters, each with thresholds fixed before its runs."""

from .claims import Claim

CLAIMS: tuple[Claim, ...] = ()
