from .manifest import DType as DType
from .manifest import Format as Format
from .manifest import ManifestEntry as ManifestEntry
from .manifest import MapInfo as MapInfo
from .manifest import StoredPart as StoredPart
from .manifest import Term as Term
from .manifest import labels_digest as labels_digest
from .other_stores import OtherStore as OtherStore
from .samples import AddMap as AddMap
from .samples import WithMaps as WithMaps
from .samples import collate_maps as collate_maps
from .store import Store as Store
from .store import Writer as Writer
from .store import is_store as is_store
from .store import open as open

__all__ = [
    "AddMap",
    "DType",
    "Format",
    "ManifestEntry",
    "MapInfo",
    "OtherStore",
    "Store",
    "StoredPart",
    "Term",
    "WithMaps",
    "Writer",
    "collate_maps",
    "is_store",
    "labels_digest",
    "open",
]
