"""Hidden features by forward hooks, without editing a model."""

from limbeck.features.feature_extractor import Place, Taps, bare, listing, parse

__all__ = ["Place", "Taps", "bare", "listing", "parse"]
