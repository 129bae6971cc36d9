"""The pictures of the app in its guide, in both languages: `python tools/app_pictures.py RUN [RUN ...]`, where the first run is of digits.

Starts `pushforward app` with the runs, opens it in Chromium and writes app-samples.png, app-repaint.png and the Chinese zh_*.png into
docs/assets/results. The pictures of the guide are of

    pushforward train rectified_flow --data digits net:unet --steps 300 --drop-cond 0.1 --out digits_rf

and of runs of nsf on moons, rectified_flow on iris and meanflow on digits, of which only the names can be seen.
"""

import argparse
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from typing import Any

from check_accessibility import ROOT, found_chromium

from pushforward.app.words import WORDS

OUT = ROOT / "docs" / "assets" / "results"
LANGUAGES = {"en-US": "", "zh-CN": "zh_"}
PICTURES = "[...document.querySelectorAll('img')].filter(e => e.offsetParent && e.src.includes('/file='))"
DONE = "[...document.querySelectorAll('textarea, input')].filter(e => e.offsetParent).some(e => e.value.endsWith('✓'))"
CANVAS = "[...document.querySelectorAll('canvas')].filter(e => e.offsetParent)[0].getBoundingClientRect()"
STROKES = (-60, -30, 0, 30)  # pixels from the middle


def wait_for(address: str, seconds: float = 120) -> None:
    """Wait until the server answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(address).close()
            return
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def pictures(browser: Any, address: str, language: int, prefix: str) -> None:
    """Write both pictures in one language."""
    browser.open(address)
    browser.wait(f"{PICTURES}.length > 0", 120)
    browser.wait(DONE, 120)
    time.sleep(0.5)
    browser.picture(OUT / f"{prefix}app-samples.png")
    browser.click("button[role=tab]", WORDS["paint"][language])
    time.sleep(1)
    browser.click("button", WORDS["take_test"][language])
    time.sleep(3)
    browser.evaluate("window.scrollTo(0, 0)")
    time.sleep(0.5)
    x, y = browser.evaluate(f"[{CANVAS}.x + {CANVAS}.width / 2, {CANVAS}.y + {CANVAS}.height / 2]")
    for down in STROKES:
        browser.press(x + 10, y + down, (x + 90, y + down))
        time.sleep(0.2)
    browser.click("button", WORDS["repaint"][language])
    time.sleep(1)
    browser.wait(DONE, 120)
    time.sleep(1)
    browser.evaluate("window.scrollTo(0, 150)")
    time.sleep(0.5)
    browser.picture(OUT / f"{prefix}app-repaint.png")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw the pictures of the app in its guide, in both languages.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs for the app; the first is of digits")
    options = parser.parse_args(argv)
    chromium = found_chromium()
    if chromium is None:
        return 2
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "pushforward", "app", *options.runs, "--no-browser", "--port", str(port)]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            wait_for(f"http://127.0.0.1:{port}")
            for number, (language, prefix) in enumerate(LANGUAGES.items()):
                with chromium.Browser(1180, 760, language=language) as browser:
                    pictures(browser, f"http://127.0.0.1:{port}", number, prefix)
        finally:
            server.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
