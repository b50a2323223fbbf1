"""A map that gets into the trouble that files ask for, by the length of a case's first axis."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from rwloss import maps


@dataclass(frozen=True)
class Troubled(maps.MapGenerator):
    """rectified, if nothing comes in between."""

    name = "troubled"
    tags = maps.MapTags()

    def compute(self, regions):
        folder, size = Path(os.environ["RWLOSS_TEST_TROUBLE"]), regions.labels.shape[1]
        if (folder / "slow").exists():
            time.sleep(0.1)
        for kind in ("error", "exit", "memory", "kill", "kill_once"):
            asked = folder / f"{kind}_{size}"
            if asked.exists():
                if kind == "kill_once":
                    asked.unlink()
                get_into(kind)
        return maps.get("rectified")(regions)


def get_into(kind):
    if kind == "error":
        raise ZeroDivisionError("trouble")
    if kind == "exit":
        raise SystemExit("trouble")
    if kind == "memory":
        raise MemoryError
    os.kill(os.getpid(), signal.SIGKILL)
