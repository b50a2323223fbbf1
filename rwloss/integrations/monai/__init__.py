"""rwloss in MONAI: a loss with MONAI's arguments, and maps that move with its transforms.

The loss and `PrepareBatchRWMap` need only torch; the transforms import MONAI.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
