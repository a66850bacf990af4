"""The comparison of several variants: results, page, and tables."""
