"""The contract suites, for limbeck's own terms and for yours: ``check_term(MyTerm())`` in your tests."""

from limbeck.testing.check_loss import CLAIMS, check_term
from limbeck.testing.contexts import make_exchange

__all__ = ["CLAIMS", "check_term", "make_exchange"]
