"""Hidden features by forward hooks, without editing a model."""

from limbeck.features.feature_extractor import FeatureExtractor, LayerRef, list_layers, parse_layer, unwrap_model

__all__ = ["FeatureExtractor", "LayerRef", "list_layers", "parse_layer", "unwrap_model"]
