"""Types and small policies that every room speaks: outputs, exchanges, progress, schedules. Imports torch only."""

from limbeck.core.exchange import Exchange
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.core.protocols import Answers, Preparable, Task, TeacherSource, Term

__all__ = ["Answers", "Exchange", "Outputs", "Preparable", "Progress", "Task", "TeacherSource", "Term"]
