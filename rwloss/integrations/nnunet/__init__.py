"""rwloss in nnU-Net v2: trainers that nnU-Net finds by name, and their loss, which needs torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
