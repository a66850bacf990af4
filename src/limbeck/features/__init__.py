"""Hidden features by forward hooks, without editing a model."""

from limbeck.features.feature_extractor import (
    FeatureExtractor,
    ModuleCall,
    layer_root,
    list_layers,
    trace_calls,
    unwrap_model,
)
from limbeck.features.layer_ref import LayerRef, parse_layer

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
