"""Hidden features by forward hooks, without editing a model."""

from limbeck.taps.taps import Place, Taps, bare, listing, parse

__all__ = ["Place", "Taps", "bare", "listing", "parse"]
