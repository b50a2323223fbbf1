from .loss import PrepareBatchRWMap as PrepareBatchRWMap
from .loss import RWLoss as RWLoss
from .transforms import LoadRWMapd as LoadRWMapd
from .transforms import RWMapd as RWMapd

__all__ = ["LoadRWMapd", "PrepareBatchRWMap", "RWLoss", "RWMapd"]
