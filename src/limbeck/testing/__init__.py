"""Contract tests for losses: ``check_loss(MyLoss())``."""

from limbeck.testing.check_loss import CHECKS, check_loss
from limbeck.testing.contexts import make_context

__all__ = ["CHECKS", "check_loss", "make_context"]
