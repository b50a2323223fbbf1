from .digest import labels_digest as labels_digest
from .manifest import Entry as Entry
from .manifest import MapInfo as MapInfo
from .manifest import StoredPart as StoredPart
from .reading import Store as Store
from .reading import open as open
from .writing import Writer as Writer

__all__ = ["Entry", "MapInfo", "Store", "StoredPart", "Writer", "labels_digest", "open"]
