from .manifest import DType as DType
from .manifest import Format as Format
from .manifest import ManifestEntry as ManifestEntry
from .manifest import MapInfo as MapInfo
from .manifest import StoredPart as StoredPart
from .manifest import Term as Term
from .manifest import labels_digest as labels_digest
from .reading import Store as Store
from .reading import open as open
from .samples import AddMap as AddMap
from .samples import WithMaps as WithMaps
from .samples import collate_maps as collate_maps
from .writing import Writer as Writer

__all__ = [
    "AddMap",
    "DType",
    "Format",
    "ManifestEntry",
    "MapInfo",
    "Store",
    "StoredPart",
    "Term",
    "WithMaps",
    "Writer",
    "collate_maps",
    "labels_digest",
    "open",
]
