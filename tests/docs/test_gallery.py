"""docs/gallery.md: every map that ships, with its picture; the text is what the script writes."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
PICTURES = ROOT / "docs" / "images" / "gallery"


@pytest.fixture(scope="module")
def gallery():
    """The script."""
    path = ROOT / "docs" / "site" / "make_gallery.py"
    spec = importlib.util.spec_from_file_location("make_gallery", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "make_gallery", module)  # for its dataclass
        spec.loader.exec_module(module)
    return module


def test_every_map_has_a_picture(gallery):
    names = set(gallery.built_in())
    assert set(re.findall(r"^### (\w+)$", TEXT, flags=re.MULTILINE)) == names
    assert {path.stem for path in PICTURES.iterdir()} == names | {"case"}
    for path in PICTURES.iterdir():
        with Image.open(path) as picture:
            assert picture.width == 792, path.name
            assert len(picture.convert("RGB").getcolors(2**20)) > 8, path.name
    assert sum(path.stat().st_size for path in PICTURES.iterdir()) < 1.5e6


def test_the_page_is_what_the_script_writes(gallery):
    assert gallery.page() == TEXT, "python docs/site/make_gallery.py --page writes it again"
