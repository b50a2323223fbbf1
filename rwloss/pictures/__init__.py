"""Pictures of one case: its image, its labels, and the values of each map.

matplotlib loads when a picture is drawn.
"""

from rwloss.pictures.draw import FORMATS, check_output, draw
from rwloss.pictures.panels import MAX_CLASSES, Scale

__all__ = ["FORMATS", "MAX_CLASSES", "Scale", "check_output", "draw"]
