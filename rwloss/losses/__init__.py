"""Losses in torch: softmax times a region-wise map."""

from rwloss._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
