"""The parts of `limbeck compare`: runs and studies as variants with seeds, and statistics of their differences."""
