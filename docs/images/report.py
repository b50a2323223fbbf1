"""Makes report.png from the report of `make demo`; needs Chromium, and is run from the root."""

import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

page_file = Path("rwloss-demo/study/report.html").resolve()
picture = Path(__file__).with_name("report.png")
with sync_playwright() as started:
    browser = started.chromium.launch(
        executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
    )
    page = browser.new_page(viewport={"width": 1280, "height": 1090})
    page.goto(page_file.as_uri())
    page.wait_for_selector("#tie-7 .main-svg")
    page.evaluate("document.querySelector('#learning').scrollIntoView()")
    page.wait_for_timeout(500)
    page.screenshot(path=picture)
    browser.close()
# 64 colours are enough for lines and letters, and a quarter of the bytes.
with Image.open(picture) as full:
    full.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(picture, optimize=True)
