"""The losses of ``limbeck.losses`` as a table and as ``docs/methods.md``, from class attributes and docstrings."""

from limbeck.workflows.list_losses.loss_info import LossInfo, list_losses
from limbeck.workflows.list_losses.losses_page import losses_page, losses_table

__all__ = ["LossInfo", "list_losses", "losses_page", "losses_table"]
