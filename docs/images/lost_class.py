"""Makes lost_class.png from a study with maps "boundary" and "dice_ce"; run from the root.

python docs/images/lost_class.py STUDY   (docs/images/README.md says how its study was made)
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl
from PIL import Image

mpl.use("agg")
from matplotlib import pyplot as plt

from rwloss.study.outcomes import COLLAPSED_BELOW

study = Path(sys.argv[1])
results = json.loads((study / "results.json").read_text())
MAPS = {"boundary": ("boundary", "#c0392b"), "dice_ce": ("Dice + CE", "#2c6fbb")}
LIMIT = 0.01  # of the pull ratio, below which a class can vanish: docs/stability.md

figure, (before, during) = plt.subplots(
    1, 2, figsize=(9.6, 3.3), width_ratios=(1, 1.5), layout="constrained"
)
bars = [
    (f"{words}: {each}", results["indicators"][label]["pull"][each], color)
    for label, (words, color) in MAPS.items()
    for each in results["indicators"][label]["pull"]
]
names, pulls, colors = zip(*reversed(bars), strict=True)
before.barh(names, pulls, color=colors)
before.axvline(LIMIT, color="black", linestyle="--", linewidth=1)
before.annotate("can vanish", (LIMIT, 3.45), (-4, 0), textcoords="offset points", ha="right")
before.set_xscale("log")
before.set_xlim(1e-3, 1.5)
before.set_ylim(-0.6, 3.9)
before.set_xlabel("pull on the class (1: as strong as the push against it)")
before.set_title("Before training: rwloss check", loc="left", fontsize=11)

for row, (label, (words, color)) in enumerate(MAPS.items()):
    runs = sorted((study / "runs" / label).glob("seed_*"))
    ends = []
    for run in runs:
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        scored = [line for line in lines if line["kind"] == "validation"]
        worst = [min(line["dice"].values()) for line in scored]
        during.plot([line["step"] for line in scored], worst, color=color, alpha=0.6)
        ends.append(worst[-1])
    lost = sum(end < COLLAPSED_BELOW for end in ends)
    text = f"{words}: {lost} of {len(runs)} runs lost a class"
    during.text(0.02, 0.98 - 0.075 * row, text, color=color, va="top", transform=during.transAxes)
during.set_ylim(-0.02, 1.05)
during.set_xlabel("training step")
during.set_ylabel("validation Dice, worst class")
during.set_title("During training: every line is a run", loc="left", fontsize=11)
for axes in (before, during):
    axes.spines[["top", "right"]].set_visible(False)

picture = Path(__file__).with_name("lost_class.png")
figure.savefig(picture, dpi=150)
with Image.open(picture) as full:
    full.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(picture, optimize=True)
