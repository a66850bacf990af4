"""The methods there are: read from the terms and their docstrings, measured, and written as a table and as a page."""

from limbeck.workflows.list_losses.describe import Method, methods
from limbeck.workflows.list_losses.markdown import methods_page
from limbeck.workflows.list_losses.table import methods_table

__all__ = ["Method", "methods", "methods_page", "methods_table"]
