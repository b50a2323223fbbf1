"""Stores of precomputed maps: folders or object stores with a manifest."""

from rwloss._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
