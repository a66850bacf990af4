"""How many times the engine runs: for each teacher, for the student alone, distilled; and for arms × seeds."""

from limbeck.programs.chain import chain
from limbeck.programs.distill import distill
from limbeck.programs.study import study
from limbeck.programs.teachers import teachers

__all__ = ["chain", "distill", "study", "teachers"]
