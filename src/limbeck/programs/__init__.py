"""How many times the engine runs: once for each teacher, once for the student alone, once distilled."""

from limbeck.programs.chain import chain
from limbeck.programs.distill import distill
from limbeck.programs.robustness import robustness
from limbeck.programs.teachers import teachers

__all__ = ["chain", "distill", "robustness", "teachers"]
