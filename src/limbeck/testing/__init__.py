"""Contract tests for losses, tasks and data sources: ``check_loss``, ``check_task``, ``check_data_source``."""

from limbeck.testing.check_data_source import DATA_CHECKS, check_data_source
from limbeck.testing.check_loss import LOSS_CHECKS, check_loss
from limbeck.testing.check_task import TASK_CHECKS, check_task
from limbeck.testing.contexts import make_context

__all__ = ["DATA_CHECKS", "LOSS_CHECKS", "TASK_CHECKS", "check_data_source", "check_loss", "check_task", "make_context"]
