"""A 1/n spectrum (Nassar et al. 2020): claims, and a sentence for each verdict."""

from ..claims import Claim

CLAIMS: tuple[Claim, ...] = ()

SAID: dict[str, dict[str, str]] = {}
