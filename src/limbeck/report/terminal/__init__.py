"""Results as plain text tables for the terminal."""
