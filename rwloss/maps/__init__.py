"""Map generators, one per file with formula, units and source; the registry; expressions as
text."""

from rwloss._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
