"""Map generators: each a file with its formula, units and source; the registry; text form."""

from rwloss._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
