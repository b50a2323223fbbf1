"""rwloss in nnU-Net v2: trainers that nnU-Net finds by name, and their loss, which needs torch."""

from rwloss._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
