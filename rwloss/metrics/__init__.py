"""Metrics of one class of one case, with their units, directions and rules for missed classes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
