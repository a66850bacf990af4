"""Choosing teachers: rules and greedy selection."""
