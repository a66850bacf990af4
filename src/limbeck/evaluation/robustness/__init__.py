"""Robustness: attacks, corruptions, noise, shift and out-of-distribution data."""
