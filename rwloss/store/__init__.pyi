from .digest import labels_digest as labels_digest
from .manifest import DType as DType
from .manifest import Entry as Entry
from .manifest import Format as Format
from .manifest import MapInfo as MapInfo
from .manifest import StoredPart as StoredPart
from .manifest import Term as Term
from .reading import Store as Store
from .reading import open as open
from .samples import AddMap as AddMap
from .samples import WithMaps as WithMaps
from .samples import collate_maps as collate_maps
from .writing import Writer as Writer

__all__ = [
    "AddMap",
    "DType",
    "Entry",
    "Format",
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
