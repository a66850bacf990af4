"""Selection of teachers: rules with warnings, and greedy forward selection."""
