"""Runs and studies under a folder, in a browser, live: read-only, on this machine only."""

from limbeck.dashboard.serve import serve

__all__ = ["serve"]
