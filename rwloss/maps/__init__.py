"""Map generators: each a file with its formula, units and source; the registry; text form."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
