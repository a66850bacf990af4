"""The losses there are: read from the classes and their docstrings, measured, and written as a table and as a page."""

from limbeck.workflows.list_losses.describe import LossInfo, list_losses
from limbeck.workflows.list_losses.markdown import losses_page
from limbeck.workflows.list_losses.table import losses_table

__all__ = ["LossInfo", "list_losses", "losses_page", "losses_table"]
