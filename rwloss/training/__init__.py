"""Networks, data in memory, one training loop, and metrics. Uses torch; imports MONAI on use."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
