"""The parts of `limbeck study`: variants, their trials, the queue, and what is found."""
