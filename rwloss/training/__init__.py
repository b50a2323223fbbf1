"""Networks, data in memory, one training loop, and metrics. Uses torch; imports MONAI on use."""

from rwloss._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
