"""A live, read-only view of the runs and studies in a folder, served on this machine only."""

from limbeck.dashboard.app import serve

__all__ = ["serve"]
