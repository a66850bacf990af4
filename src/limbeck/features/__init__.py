"""Hidden features by forward hooks, without editing a model."""

from limbeck.features.feature_extractor import FeatureExtractor, LayerRef, list_layers, parse_layer, unwrap_model

__all__ = ["LayerRef", "FeatureExtractor", "unwrap_model", "list_layers", "parse_layer"]
