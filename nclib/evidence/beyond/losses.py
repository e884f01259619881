"""Are all losses created equal (Zhou et al. 2022): claims, and a sentence for each verdict."""

from ..claims import Claim

CLAIMS: tuple[Claim, ...] = ()

SAID: dict[str, dict[str, str]] = {}
