"""rwloss: every segmentation loss as softmax times a region-wise map.

The names below load on first use, so `import rwloss` costs milliseconds and loads neither torch
nor MONAI. The stub next to this file lists them.
"""

from rwloss._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
