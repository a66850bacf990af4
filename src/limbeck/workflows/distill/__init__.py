"""``limbeck distill``: teachers, baseline and distilled student; measured, exported, reported."""
