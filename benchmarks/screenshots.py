"""Screenshots of the web app for the README: python benchmarks/screenshots.py [--models models] [--out nbs/images]

Starts the web app, opens the example "a street" in Chromium, and writes page.png, page-phone.png and page-dark.png.
Check the images before you commit them.
"""

import argparse
import shutil
from pathlib import Path

from page import HERE, start_page
from playwright.sync_api import sync_playwright

LOOKS = {
    "page": {"viewport": {"width": 1180, "height": 900}},
    "page-phone": {
        "viewport": {"width": 390, "height": 844},
        "is_mobile": True,
        "has_touch": True,
        "device_scale_factor": 2,
    },
    "page-dark": {"viewport": {"width": 1180, "height": 900}, "color_scheme": "dark"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=HERE.parent / "models")
    parser.add_argument("--out", type=Path, default=HERE.parent / "nbs/images")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    process, url, _ = start_page(args.models)
    try:
        with sync_playwright() as p:
            browser = p.chromium.launch(
                executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
                args=["--no-sandbox", "--disable-gpu"],
            )
            for name, look in LOOKS.items():
                page = browser.new_page(**look)
                page.goto(url)
                page.get_by_role("button", name="a street").click()
                page.locator("#report h2").wait_for()
                page.get_by_role("checkbox").check()
                page.wait_for_timeout(800)
                page.screenshot(path=args.out / f"{name}.png", full_page=True)
                print(args.out / f"{name}.png")
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__": main()
