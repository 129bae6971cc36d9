"""Check each page of the built site in Chromium, wide and narrow, light and dark: axe-core's rules, its width, and the console.

`make docs-check` runs it after `make docs`.

    python tools/check_accessibility.py [FOLDER] [--only WORD]

Prints each serious or critical finding once, with the first page and element that has it, and its number of pages; exits with 1 if there
is one. The English reference is checked once, although both languages contain it. Figures are started before the check.
"""

import argparse
import functools
import http.server
import importlib.util
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

NO_CONTRAST = "{rules: {'color-contrast': {enabled: false}}}"
ONLY_CONTRAST = "{runOnly: {type: 'rule', values: ['color-contrast']}}"
ROOT = Path(__file__).resolve().parent.parent
# Widths, and Material's schemes. Contrast takes most of the time and does not depend on the width, the other rules not on the scheme.
VIEWS = ((1280, "default", "{}"), (390, "default", NO_CONTRAST), (390, "slate", ONLY_CONTRAST))
SERIOUS = ("serious", "critical")
RUN = f"""axe.run(document, {{resultTypes: ["violations"], ...OPTIONS}}).then((found) => found.violations.filter((one) =>
  {json.dumps(SERIOUS)}.includes(one.impact)).map(({{id, help, nodes}}) =>
  [id, help, nodes[0].target.join(" "), nodes.length, nodes[0].any[0]?.message]))"""

# What ends right of the window, so that the page scrolls sideways; tables and formulas scroll in boxes of their own.
OVERFLOW = """(() => {
  const end = document.documentElement.clientWidth, boxes = (style) => style.overflowX !== "visible" || style.position === "fixed";
  const held = (e) => e && e !== document.body && (boxes(getComputedStyle(e)) || held(e.parentElement));
  const past = (e) => e.getBoundingClientRect().width > 0 && e.getBoundingClientRect().right - end;
  const wide = [...document.querySelectorAll("body *")].filter((e) => past(e) > 1 && !held(e));
  return wide.length ? [wide[0].outerHTML.slice(0, 80), wide.length, past(wide[0])] : null;
})()"""
WIDE = "Pages must not scroll sideways"


def tool(path: Path) -> Any:
    """Return a module by its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def found_chromium() -> Any:
    """Return the module that drives Chromium, or None after stating that there is none."""
    module = tool(ROOT / "tests" / "chromium.py")
    if module.BINARY is not None:
        return module
    print("there is no Chromium, in which pages are checked; install it (Debian and Ubuntu: apt install chromium).", file=sys.stderr)
    return None


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, without a log."""

    extensions_map: ClassVar = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, *given: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """A server whose browser may be closed while it still sends."""

    def handle_error(self, *given: Any) -> None:
        pass


def served(folder: Path, handler: type[Handler] = Handler) -> Server:
    """Serve a folder at a free port of this machine, in a thread."""
    server = Server(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def pages_of(folder: Path) -> list[str]:
    """Return the addresses of a site's pages below its root; what a search engine or a redirect reads is left out."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*.html"))
    return ["/" + str(path).removesuffix("index.html") for path in found if path.parts[:2] != ("zh", "reference")]


def findings(browser: Any, address: str, axe: str) -> dict[str, tuple[str, str]]:
    """Return what is wrong on a page, by the rule: the help, and the first element with its width and scheme."""
    found: dict[str, tuple[str, str]] = {}
    browser.events.clear()
    browser.open(address)
    browser.wait(f"document.readyState === 'complete' && location.href === {json.dumps(address)}")
    browser.evaluate(axe + ";0")
    still = "document.head.append(Object.assign(document.createElement('style'), {textContent: '* { transition: none !important; }'})); 0"
    browser.evaluate(still)
    for width, scheme, options in VIEWS:
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        browser.evaluate(f"document.body.setAttribute('data-md-color-scheme', '{scheme}')")
        started = "[...document.querySelectorAll('figure.live')].filter((e) => !e.dataset.state)"
        browser.wait(f"(() => {{ const e = {started}[0]; e?.scrollIntoView(); return !e; }})()")
        time.sleep(0.4)  # layout, and what reacts to it
        for rule, help_text, target, count, message in browser.evaluate(RUN.replace("OPTIONS", options)):
            found[rule] = (help_text, f"{target} ({count} elements; {width} px, {scheme}): {message}")
        if options != ONLY_CONTRAST and (wide := browser.evaluate(OVERFLOW)):
            found["overflow"] = (WIDE, f"{wide[0]} ({wide[1]} elements; {width} px, {scheme}): {wide[2]:.0f} px too far")
    if logged := browser.complaints():
        found["console"] = ("The browser must log no error", logged[0])
    return found


def main(argv: list[str] | None = None) -> int:
    """Check all pages and print the findings."""
    parser = argparse.ArgumentParser(description="Check the built site in Chromium.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "site")
    parser.add_argument("--only", default="", help="check pages whose address contains this")
    options = parser.parse_args(argv)
    if not options.folder.is_dir():
        print(f"there is no folder {options.folder}; run make docs first.", file=sys.stderr)
        return 2
    chromium = found_chromium()
    if chromium is None:
        return 2
    axe = tool(ROOT / "tools" / "npm_packages.py").files("axe-core")["axe.min.js"].read_text(encoding="utf-8")
    pages = [page for page in pages_of(options.folder) if options.only in page]
    by_rule: dict[str, list[tuple[str, str, str]]] = {}
    server = served(options.folder)
    with chromium.Browser() as browser:
        for page in pages:
            print(page, file=sys.stderr, flush=True)
            for rule, (help_text, where) in findings(browser, f"http://127.0.0.1:{server.server_port}{page}", axe).items():
                by_rule.setdefault(rule, []).append((page, help_text, where))
    server.shutdown()
    for rule, found in sorted(by_rule.items()):
        page, help_text, where = found[0]
        print(f"{rule} on {len(found)} pages: {help_text}\n    {page} {where}")
    print(f"{len(pages)} pages: {len(by_rule)} rules with serious findings")
    return 1 if by_rule else 0


if __name__ == "__main__":
    sys.exit(main())
