"""The contract suites, for limbeck's own terms and for yours: ``check_loss(MyLoss())`` in your tests."""

from limbeck.testing.check_loss import CHECKS, check_loss
from limbeck.testing.contexts import make_context

__all__ = ["CHECKS", "check_loss", "make_context"]
