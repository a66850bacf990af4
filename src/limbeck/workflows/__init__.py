"""How many times the engine runs: for each teacher, for the student alone, distilled; and for arms × seeds."""

from limbeck.workflows.compare.run import compare
from limbeck.workflows.distill.assistants import chain
from limbeck.workflows.distill.born_again_rounds import born_again
from limbeck.workflows.distill.mutual_learning import mutual
from limbeck.workflows.distill.run import distill
from limbeck.workflows.evaluate.robustness_api import robustness
from limbeck.workflows.select_teachers.run import teachers
from limbeck.workflows.study.run import study

__all__ = ["born_again", "chain", "compare", "distill", "mutual", "robustness", "study", "teachers"]
