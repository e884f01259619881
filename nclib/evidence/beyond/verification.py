"""Robustness proved pixel by pixel (Tran et al. 2021): claims, and a sentence for each verdict."""

from ..claims import Claim

CLAIMS: tuple[Claim, ...] = ()

SAID: dict[str, dict[str, str]] = {}
