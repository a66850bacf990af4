"""How many times the engine runs: for each teacher, for the student alone, distilled; and for arms × seeds."""

from limbeck.workflows.compare.run import compare
from limbeck.workflows.distill.assistants import distill_chain
from limbeck.workflows.distill.born_again_rounds import train_born_again
from limbeck.workflows.distill.mutual_learning import train_mutual
from limbeck.workflows.distill.run import distill
from limbeck.workflows.evaluate.robustness_api import evaluate_robustness
from limbeck.workflows.select_teachers.run import select_teachers
from limbeck.workflows.study.run import study

__all__ = [
    "train_born_again",
    "distill_chain",
    "compare",
    "distill",
    "train_mutual",
    "evaluate_robustness",
    "study",
    "select_teachers",
]
