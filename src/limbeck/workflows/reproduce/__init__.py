"""``limbeck reproduce``: repeat a run from its record and compare the metrics."""
