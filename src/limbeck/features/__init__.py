"""Hidden features by forward hooks, without editing a model."""

from limbeck.features.feature_extractor import (
    FeatureExtractor,
    LayerRef,
    ModuleCall,
    layer_root,
    list_layers,
    parse_layer,
    trace_calls,
    unwrap_model,
)

__all__ = [
    "FeatureExtractor",
    "LayerRef",
    "ModuleCall",
    "layer_root",
    "list_layers",
    "parse_layer",
    "trace_calls",
    "unwrap_model",
]
