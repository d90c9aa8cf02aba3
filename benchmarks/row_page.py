"Load test of the web app with eight clients, by page.py"
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import HERE, QUICK


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "page.json"
        subprocess.run(
            [sys.executable, str(HERE / "page.py"), "--seconds", "5" if QUICK else "30", "--out", str(out)],
            check=True,
            capture_output=True,
            text=True,
        )
        page = json.loads(out.read_text())
    print(
        json.dumps(
            [
                {
                    "what": "the page, 8 clients",
                    "on": f"a new clip of 4 s at 44.1 kHz a call, {page['seconds']:g} s",
                    "page": page,
                }
            ]
        )
    )


if __name__ == "__main__": main()
