"""Whether what training needs beside rwloss's core is installed."""

from __future__ import annotations

from importlib.util import find_spec

from rwloss.errors import RWLossError


def require_monai() -> None:
    """Raise RWLossError with the fix where MONAI is not installed. Imports nothing."""
    if find_spec("monai") is None:
        raise RWLossError(
            "training needs MONAI, which is not installed: pip install 'rwloss[train]'"
        )


def require_training() -> None:
    """Raise RWLossError with the fix where MONAI or Fabric is missing. Imports neither."""
    require_monai()
    if find_spec("lightning_fabric") is None:
        raise RWLossError(
            "training needs Lightning Fabric, which is not installed: pip install 'rwloss[train]'"
        )
