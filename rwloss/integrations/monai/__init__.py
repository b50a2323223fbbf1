"""rwloss in MONAI: a loss with MONAI's arguments, and maps that ride through its transforms.

Loss and batches need torch alone; MONAI is imported when a transform is first named.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
