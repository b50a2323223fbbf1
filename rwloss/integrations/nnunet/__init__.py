"""rwloss in nnU-Net v2: trainers that nnU-Net finds by name, and the loss that they build.

nnunetv2 is imported when a trainer is first used; the loss needs only torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
