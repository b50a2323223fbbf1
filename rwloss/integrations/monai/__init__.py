"""rwloss in MONAI: a loss with MONAI's arguments (torch is enough), and maps that move along."""

from rwloss._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
