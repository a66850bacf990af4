"""Accuracy under attacks, corruptions, noise and shift, and out-of-distribution detection."""
