"""``limbeck select-teachers``: compare and choose teachers."""
