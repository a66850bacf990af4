"""Loss weighting during training: GradNorm, uncertainty, loss ratio."""
