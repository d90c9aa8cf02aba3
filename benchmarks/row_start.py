"Installation (measured by benchmarks/install.py), cold start, and import times by python -X importtime"

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf
from common import HERE, QUICK, ROOT

TAG = "from audiotag import Tagger; print(Tagger.load(r'{model}').tag(r'{clip}')[0].label)"


def seconds_of(code: str, times: int) -> list[float]:
    "Wall time of new processes that run `code`"
    found = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
        found.append(round(time.perf_counter() - start, 3))
    return found


def importtime(statement: str) -> list[tuple[str, float]]:
    "The slowest modules of an import, with cumulative milliseconds"
    said = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", statement], check=True, capture_output=True, text=True, cwd=ROOT
    ).stderr
    rows = [
        (name.strip(), int(total) / 1000) for total, name in re.findall(r"import time:\s+\d+ \|\s+(\d+) \| (.+)", said)
    ]
    return sorted(rows, key=lambda r: -r[1])[:8]


def main() -> None:
    n = 2 if QUICK else 7
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.wav"
        sf.write(clip, 0.2 * np.sin(np.arange(44100 * 4) * 0.05), 44100)
        cold = seconds_of(TAG.format(model=ROOT / "models/urbansound8k", clip=clip), n)
    bare, imported, serving = (
        statistics.median(seconds_of(code, n)) for code in ("pass", "import audiotag", "from audiotag import Tagger")
    )
    file = HERE / "results/install.json"
    print(
        json.dumps(
            [
                {
                    "what": "install and first result",
                    "on": "fresh processes",
                    "cold_start_to_tags_s": {"median": statistics.median(cold), "worst": max(cold)},
                    "import_audiotag_s": round(imported - bare, 3),
                    "import_tagger_s": round(serving - bare, 3),
                    "importtime": [f"{name} {ms:.0f} ms" for name, ms in importtime("from audiotag import Tagger")],
                    "install": json.loads(file.read_text())
                    if file.exists()
                    else {"skipped": "run python benchmarks/install.py"},
                }
            ]
        )
    )


if __name__ == "__main__": main()
