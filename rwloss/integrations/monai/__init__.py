"""rwloss in MONAI: a loss with MONAI's arguments (needs only torch), and transforms for maps."""

from rwloss._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
