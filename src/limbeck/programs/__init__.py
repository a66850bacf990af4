"""How many times the engine runs: for each teacher, for the student alone, distilled; and for arms × seeds."""

from limbeck.programs.born_again import born_again
from limbeck.programs.chain import chain
from limbeck.programs.compare import compare
from limbeck.programs.distill import distill
from limbeck.programs.mutual import mutual
from limbeck.programs.robustness import robustness
from limbeck.programs.study import study
from limbeck.programs.teachers import teachers

__all__ = ["born_again", "chain", "compare", "distill", "mutual", "robustness", "study", "teachers"]
