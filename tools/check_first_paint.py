"""Check what a browser receives before a page's first paint, over a slow connection. `make docs-check` runs it after `make docs`.

    python tools/check_first_paint.py [FOLDER] [--limit KB]

For both languages: the front page, and the article, the guide and the page of the API reference with the most to transfer. Text is sent
compressed, as hosts of static pages do. Prints a row for each page and exits with 1 if one needs more than the limit, or if a page asks
for the search index, which is the largest file of the site, before a reader opens the search.
"""

import argparse
import gzip
import io
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))  # of the script itself; also where this file is imported by its path
from check_accessibility import Handler as Files
from check_accessibility import found_chromium, served

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 300  # kB before the first paint
COMPRESSED = (".html", ".css", ".js", ".json", ".svg", ".xml", ".txt")
CONNECTION = {"offline": False, "latency": 150, "downloadThroughput": 1.6e6 / 8, "uploadThroughput": 0.75e6 / 8}  # a phone: 1.6 Mbit/s
INDEX = "/search/search_index.json"


class Handler(Files):  # type: ignore[misc]
    """Files of a folder, text compressed."""

    protocol_version = "HTTP/1.1"

    def send_head(self) -> Any:
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() and self.path.partition("?")[0].endswith("/") else path
        if path.suffix not in COMPRESSED or not path.is_file() or "gzip" not in self.headers.get("Accept-Encoding", ""):
            return super().send_head()
        content = compressed(path)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return io.BytesIO(content)


def compressed(path: Path) -> bytes:
    """Return a file in gzip, at the level that hosts use."""
    return gzip.compress(path.read_bytes(), 6)


class Paint(NamedTuple):
    """What a browser had received at the first paint, when that was, and what it had received once the page was loaded."""

    before: int
    seconds: float
    in_all: int
    addresses: frozenset[str]


def first_paint(browser: Any, address: str) -> Paint:
    """Open a page with an empty cache, and count the bytes of bodies and headers until its first contentful paint."""
    browser.events.clear()
    browser.open(address)
    browser.wait("document.readyState === 'complete' && performance.getEntriesByName('first-contentful-paint').length > 0", 90)
    time.sleep(1)  # what scripts ask for after the page has loaded
    browser.evaluate("1")  # reads the events that are still to come
    painted, started, received, finished, addresses = None, None, [], {}, {}
    for event in browser.events:
        given = event["params"]
        if event["method"] == "Page.lifecycleEvent" and given["name"] == "firstContentfulPaint":
            painted = given["timestamp"]
        elif event["method"] == "Network.requestWillBeSent":
            started = started or given["timestamp"]
            addresses[given["requestId"]] = given["request"]["url"]
        elif event["method"] == "Network.dataReceived":
            received.append((given["requestId"], given["timestamp"], given["encodedDataLength"]))
        elif event["method"] == "Network.loadingFinished":
            finished[given["requestId"]] = (given["timestamp"], given["encodedDataLength"])
    if painted is None or started is None:
        raise AssertionError(f"{address} was not painted")
    whole = {one: size for one, (when, size) in finished.items() if when <= painted}
    begun = sum(size for one, when, size in received if one not in whole and when <= painted)
    return Paint(sum(whole.values()) + begun, painted - started, sum(size for _, size in finished.values()), frozenset(addresses.values()))


def pages_of(folder: Path) -> list[str]:
    """Return the addresses to check: in each language the front page, and the largest article, guide and page of the reference."""
    found = []
    for language in ("", "zh/"):
        root = folder / language
        groups = {
            "articles": root.glob("articles/*/index.html"),
            "guides": (path for path in root.glob("*/index.html") if path.parent.name not in ("zh", "reference")),
            "reference": root.glob("reference/*/index.html"),
        }
        largest = [max(paths, key=lambda path: len(compressed(path)), default=None) for paths in groups.values()]
        found += [f"/{language}"] + [f"/{path.relative_to(folder).parent.as_posix()}/" for path in largest if path]
    return found


def main(argv: list[str] | None = None) -> int:
    """Check the pages and print what each needs."""
    parser = argparse.ArgumentParser(description="Check what a browser receives before a page's first paint.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "site")
    parser.add_argument("--limit", type=int, default=LIMIT, metavar="KB", help="kB before the first paint (default 300)")
    options = parser.parse_args(argv)
    if not (options.folder / "index.html").is_file():
        print(f"there is no {options.folder / 'index.html'}; run make docs first.", file=sys.stderr)
        return 2
    chromium = found_chromium()
    if chromium is None:
        return 2
    server = served(options.folder, Handler)
    failures = []
    print("page                                       kB before the first paint   seconds   kB in all")
    for page in pages_of(options.folder):
        with chromium.Browser(390, 844, touch=True) as browser:  # a new one each: nothing is cached
            browser.call("Page.setLifecycleEventsEnabled", enabled=True)
            browser.call("Network.emulateNetworkConditions", **CONNECTION)
            paint = first_paint(browser, f"http://127.0.0.1:{server.server_port}{page}")
        print(f"{page:<42} {paint.before / 1000:25.0f} {paint.seconds:9.1f} {paint.in_all / 1000:11.0f}", flush=True)
        if paint.before > 1000 * options.limit:
            failures.append(f"{page} needs {paint.before / 1000:.0f} kB before its first paint, more than {options.limit}")
        if any(address.endswith(INDEX) for address in paint.addresses):
            failures.append(f"{page} asks for {INDEX} before the search is opened")
    server.shutdown()
    for failure in failures:
        print(failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
