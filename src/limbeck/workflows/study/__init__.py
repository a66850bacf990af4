"""The parts of `limbeck study`: arms, their cells, the queue, and what is found."""
