"""The parts of `limbeck compare`: runs and studies read as arms with seeds, and the statistics of their differences."""
