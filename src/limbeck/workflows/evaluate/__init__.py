"""``limbeck evaluate``: robustness and efficiency of a finished run."""
