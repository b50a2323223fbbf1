"""Metrics of one class of one case, with their units, directions and rules for missed classes."""

from rwloss._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
