"""A browser without a window, steered by the Chrome DevTools protocol: real clicks, keys, and the log of its requests."""

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

BINARY = shutil.which("chromium") or shutil.which("google-chrome")


class Browser:
    """One tab of a headless Chromium."""

    def __init__(self, width=1280, height=900, language="en-US", dark=False, touch=False):
        import websocket

        self.folder = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--remote-debugging-port=0",
            "--remote-allow-origins=*",
            f"--user-data-dir={self.folder.name}",
            f"--lang={language}",
            f"--accept-lang={language}",
            f"--window-size={width},{height}",
        ]
        self.process = subprocess.Popen(
            [BINARY, *options, "about:blank"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        port_file = Path(self.folder.name) / "DevToolsActivePort"
        wait(lambda: port_file.exists() and port_file.read_text().count("\n"), 30)
        port = port_file.read_text().split()[0]
        tabs = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
        url = next(one["webSocketDebuggerUrl"] for one in tabs if one["type"] == "page")
        self.socket, self.number, self.events = websocket.create_connection(url, timeout=60, suppress_origin=True), 0, []
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        mobile = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self.call("Emulation.setDeviceMetricsOverride", **mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        agent = self.evaluate("navigator.userAgent").replace("Headless", "")
        self.call("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=language)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        os.killpg(self.process.pid, signal.SIGKILL)  # its renderers too, which would write into the folder
        self.process.wait()
        self.folder.cleanup()

    def call(self, method, **parameters):
        """Return the result of a command; events that arrive before it are kept."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                assert "error" not in message, message["error"]
                return message["result"]
            self.events.append(message)

    def evaluate(self, expression):
        """Return the value of an expression of JavaScript, once its promise is kept."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def open(self, url):
        self.call("Page.navigate", url=url)

    def wait(self, expression, seconds=60):
        """Wait until an expression is true."""
        return wait(lambda: self.evaluate(expression), seconds)

    def click(self, selector, text=None, nth=0):
        """Click at the middle of a visible element, the nth with a selector, or that with a text."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})].filter(e => e.offsetParent !== null)"
        if text is not None:
            found += f".filter(e => e.textContent.trim() === {json.dumps(text)})"
        place = f"(() => {{ const e = {found}[{nth}]; if (!e) return null; e.scrollIntoView({{block: 'center'}}); "
        place += "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        self.wait(place, 30)
        time.sleep(0.2)
        self.press(*self.evaluate(place))

    def press(self, x, y, to=None):
        """Press the mouse at a place, and release it there or, after a straight line, at another."""
        for kind, (a, b) in (("mousePressed", (x, y)), *(("mouseMoved", one) for one in line((x, y), to)), ("mouseReleased", to or (x, y))):
            self.call("Input.dispatchMouseEvent", type=kind, x=a, y=b, button="left", buttons=1, clickCount=1)

    def picture(self, path):
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def requests(self):
        """Return the addresses that were asked for so far."""
        self.evaluate("1")
        return {one["params"]["request"]["url"] for one in self.events if one["method"] == "Network.requestWillBeSent"}

    def complaints(self):
        """Return the exceptions and errors of the page so far."""
        self.evaluate("1")
        thrown = [one["params"]["exceptionDetails"]["text"] for one in self.events if one["method"] == "Runtime.exceptionThrown"]
        logged = [one["params"]["entry"] for one in self.events if one["method"] == "Log.entryAdded"]
        return thrown + [f"{one['text']} {one.get('url', '')}" for one in logged if one["level"] == "error"]


def line(start, end, steps=8):
    """Return points on the way from start to end."""
    return [] if end is None else [tuple(a + (b - a) * k / steps for a, b in zip(start, end, strict=True)) for k in range(1, steps + 1)]


def wait(condition, seconds):
    """Return the first true value of a condition."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"nothing happened within {seconds} s")
