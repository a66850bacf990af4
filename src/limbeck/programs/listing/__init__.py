"""The methods there are: read from the terms and their docstrings, measured, and written as a table and as a page."""

from limbeck.programs.listing.methods import Method, methods
from limbeck.programs.listing.page import methods_page
from limbeck.programs.listing.table import methods_table

__all__ = ["Method", "methods", "methods_page", "methods_table"]
