"""mkdocs hooks: run the code of the site, generate the API reference, render formulas.

A hook of mkdocs.yml. `python tools/docs.py` only runs the code, without building the site.

Code: every file of docs/code runs in a separate process, in an empty folder. Its output and pictures are stored in
docs/assets/code/<name>/ (output.txt, *.txt, *.png, *.svg), so that pages show actual results. The ```python blocks of a page are run
as well, in order and in one namespace per page, unless they are includes (`--8<-- "file.py"`), which docs/code has run already.
A failure ends the build with page and line. What ran well is kept in .cache/docs by a hash of the code, of the library's source and of
the results that pages read, so that a change of one page runs that page alone; `make clean` forgets it.
"""

import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
TOOLS = ROOT / "tools"
CODE = DOCS / "code"
RESULTS = DOCS / "assets" / "code"
CACHE = ROOT / ".cache" / "docs"
RUNTIME = DOCS / "assets" / "runtime"  # onnxruntime-web and
FONTS = DOCS / "assets" / "katex"  # the fonts of formulas, which pages load from the site itself
REFERENCE = DOCS / "en" / "reference"
ASSETS = DOCS / "assets"
SECONDS = 1500  # time limit of one file, or of all blocks of one page, also where other work makes the machine slow
KEPT = (".png", ".svg", ".gif", ".webp", ".txt", ".json", ".onnx")  # pictures, text to include, and models that pages run


# ---- running the code


def run_all() -> list[str]:
    """Run docs/code and the blocks of all pages, two at a time; return one report for each failure."""
    jobs = [(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"), path.stem) for path in sorted(CODE.glob("*.py"))]
    for page in pages():
        source = blocks(page.read_text(encoding="utf-8"), str(page.relative_to(ROOT)))
        if source.strip():
            jobs.append((str(page.relative_to(ROOT)), source, ""))
    read = sorted([*(ROOT / "src").rglob("*.py"), ROOT / "constraints.txt"])
    library = hashlib.sha256(b"".join(path.read_bytes() for path in read)).hexdigest()
    few: dict[str, list[Path]] = {  # what the code that contains a text depends on besides
        "RESULTS.md": [ROOT / "benchmarks" / "RESULTS.md"],
        '"results"': list((DOCS / "assets" / "results").rglob("*.json")),
        "docs_moving": [TOOLS / "docs_moving.py", *TOOLS.glob("*chinese.*")],
    }
    hashes = {name: hashlib.sha256(b"".join(path.read_bytes() for path in sorted(paths))).hexdigest() for name, paths in few.items()}
    with ThreadPoolExecutor(2) as pool:  # those files change often, and few read them
        runs = pool.map(lambda job: run(*job, library + "".join(hashes[name] for name in few if name in job[1])), jobs)
        return [report for report in runs if report]


def pages() -> list[Path]:
    """Return the hand-written pages; the reference is generated from docstrings, which the tests run."""
    return [page for page in sorted([*DOCS.glob("en/**/*.md"), *DOCS.glob("zh/**/*.md")]) if REFERENCE not in page.parents]


def blocks(text: str, page: str) -> str:
    """Return a page's ```python blocks as one Python source that preserves the line numbers of the page."""
    source: list[str] = []
    fence, indent, python, start = "", 0, False, 0
    for number, line in enumerate(text.splitlines(), 1):
        kept = ""
        if not fence and (opening := re.match(r"(\s*)(`{3,}|~{3,})\s*\{?\s*\.?(\w*)", line)):
            indent, fence = len(opening[1]), opening[2]
            python, start = opening[3] in ("python", "py", "python3"), number
        elif fence and re.fullmatch(rf"\s*{fence[0]}{{{len(fence)},}}\s*", line):
            block = source[start:]
            if python and any("--8<--" in one for one in block):
                if not all("--8<--" in one or not one.strip() for one in block):
                    raise PluginError(f"{page}:{start}: a block must be code or an include, not both.")
                source[start:] = [""] * len(block)
            fence = ""
        elif fence and python:
            kept = line[indent:] if not line[:indent].strip() else line
        source.append(kept)
    if fence:
        raise PluginError(f"{page}:{start}: this block is not closed.")
    return "\n".join(source)


@functools.cache  # mkdocs builds once per language, and again on each change when serving
def run(name: str, source: str, keep: str, library: str) -> str:
    """Run one source in a separate process, or take what it left the last time; return "" or the error.

    Args:
        name: what tracebacks call it.
        source: the code.
        keep: the folder of RESULTS for its output, "" for none.
        library: what its outcome depends on besides, as a hash.
    """
    held = CACHE / hashlib.sha256("\0".join((name, source, keep, library)).encode()).hexdigest()[:24]
    if held.is_dir():
        if keep:
            _replace(RESULTS, keep, {path.name: path.read_bytes() for path in held.iterdir()})
        return ""
    report, files = _ran(name, source)
    if not report:
        if keep:
            _replace(RESULTS, keep, files)
        _remember(held, files if keep else {})
    return report


def _remember(place: Path, files: dict[str, bytes]) -> None:
    """Keep the files of a run for the next build; a build that is interrupted leaves nothing half-written."""
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE.parent / ".gitignore").write_text("*\n")
    folder = Path(tempfile.mkdtemp(dir=CACHE))
    for file, content in files.items():
        (folder / file).write_bytes(content)
    try:
        folder.rename(place)
    except OSError:  # another build was faster
        shutil.rmtree(folder)


def _ran(name: str, source: str) -> tuple[str, dict[str, bytes]]:
    """Run one source in a separate process; return "" or the error, and the files that it leaves."""
    starter = (  # linecache knows the source, so that tracebacks and reports show its lines
        "import linecache, sys; name, source = sys.argv[1], sys.stdin.read(); "
        "linecache.cache[name] = len(source), None, source.splitlines(True), name; "
        "exec(compile(source, name, 'exec'), {'__name__': '__main__', '__file__': name})"
    )
    paths = f"{ROOT / 'src'}{os.pathsep}{TOOLS}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"}
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-c", starter, name],
                input=source,
                cwd=folder,
                env=environment,
                capture_output=True,
                encoding="utf-8",
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            return f"{name}: still running after {SECONDS} s.", {}
        if done.returncode:
            lines = re.findall(rf'File "{re.escape(name)}", line (\d+)', done.stderr)
            own = re.sub(r'  File "<string>", line \d+, in <module>\n', "", done.stderr).strip()  # without the frame of the starter
            return f"{name}:{lines[0] if lines else '?'}: {own}", {}
        kept = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.suffix in KEPT}
        return "", {"output.txt": done.stdout.encode(), **kept}


def _replace(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """Update folder/name to exactly these files, writing only changed ones, so that `mkdocs serve` does not rebuild needlessly."""
    _generated_folder(folder)
    place = folder / name
    place.mkdir(exist_ok=True)
    for path in place.iterdir():
        if path.name not in files:
            path.unlink()
    for file, content in files.items():
        if not (place / file).exists() or (place / file).read_bytes() != content:
            (place / file).write_bytes(content)


def _generated_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")


# ---- the hooks


def on_pre_build(config: Any) -> None:
    """Check the articles, run the code and write the reference, before mkdocs collects files."""
    articles, words = _tool("docs_articles"), _tool("docs_chinese")
    try:
        articles.check(DOCS)
        if failures := run_all():
            raise PluginError("The code of the site does not run.\n\n" + "\n\n".join(failures))
        write_reference()
        write_assets()
        _generated_folder(ASSETS / "chinese")
        words.write_plots(ASSETS)
    except (articles.ArticleError, words.ChineseError) as error:
        raise PluginError(str(error)) from error


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Check included output, show the facts of articles, and index the reference once for search, although both languages contain it."""
    source, printed = Path(page.file.abs_src_path), _tool("docs_output")
    if page.file.src_uri.startswith("en/reference/") and page.url.startswith("zh/"):
        page.meta["search"] = {"exclude": True}
        page.meta |= {"title": "API 参考（英文）"} if page.file.name == "index" else {}  # for the footer of the page before it
    articles, libraries = _tool("docs_articles"), _tool("docs_libraries")
    try:
        if REFERENCE not in source.parents:  # the file has the line numbers that its writer sees
            printed.check(source.read_text(encoding="utf-8"), RESULTS)
        shown = libraries.compact(markdown, source.parent / "libraries.md")
    except (printed.OutputError, libraries.LibrariesError) as error:
        raise PluginError(f"docs/{page.file.src_uri}: {error}") from error
    if source.parent.name == "articles":
        facts = articles.facts_of(page.meta, f"docs/{page.file.src_uri}")
        page.meta["description"] = facts.summary
        return str(articles.below_title(markdown, facts))
    return str(shown.replace(articles.MARK, articles.latest(source.parent / "articles"))) if articles.MARK in shown else str(shown)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Translate the tables of Chinese pages, render the formulas that arithmatex marks, and check the pictures."""
    formulas, pictures, words = _tool("docs_formulas"), _tool("docs_pictures"), _tool("docs_chinese")
    try:
        content = words.pictures(words.page(content), ASSETS) if page.file.src_uri.startswith("zh/") else content
        content = _tool("docs_output").unbroken(content)
        return str(pictures.checked(formulas.rendered(content, _package("katex")["katex.min.js"])))
    except (formulas.FormulaError, pictures.PictureError, words.ChineseError) as error:
        raise PluginError(f"docs/{page.file.src_uri}: {error}") from error


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Lead to the other language, and translate the names that mkdocs.yml states once for both."""
    output = str(_tool("docs_links").to_languages(output, page.url))
    return str(_tool("docs_chinese").chrome(output)) if page.url.startswith("zh/") else output


def on_post_template(output: str, template_name: str, config: Any) -> str:
    """Lead from the page of what is not found to the front pages."""
    return str(_tool("docs_links").to_front_pages(output)) if template_name == "404.html" else output


def on_post_build(config: Any) -> None:
    """Leave out what needs the address of the site."""
    _tool("docs_links").without_address(config)


def write_reference() -> None:
    """Write docs/en/reference from the registry; unchanged pages are not rewritten."""
    reference = _tool("docs_reference")
    _generated_folder(REFERENCE)
    texts = {**reference.pages(), "papers.md": _tool("docs_papers").page()}
    for path in REFERENCE.glob("*.md"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        path = REFERENCE / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def write_assets() -> None:
    """Copy what pages load from packages of npm: the runtime of docs/assets/live, and the style and fonts of formulas."""
    _copy(RUNTIME, {name: path.read_bytes() for name, path in _package("onnxruntime-web").items()})
    katex = {name: path.read_bytes() for name, path in _package("katex").items()}
    del katex["katex.min.js"]
    katex["katex.min.css"] = _tool("docs_formulas").stylesheet(katex["katex.min.css"].decode()).encode()
    _copy(FONTS, katex)


def _copy(folder: Path, files: dict[str, bytes]) -> None:
    _generated_folder(folder)
    for name, content in files.items():
        if not (folder / name).exists() or (folder / name).read_bytes() != content:
            (folder / name).write_bytes(content)


def _package(name: str) -> dict[str, Path]:
    packages = _tool("npm_packages")
    try:
        return dict(packages.files(name))
    except packages.PackageError as error:
        raise PluginError(str(error)) from error


@functools.cache
def _tool(name: str) -> Any:
    """Return a module next to this one; tools/ is no package."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def main() -> int:
    """Run the code of the site."""
    failures = run_all()
    for failure in failures:
        print(failure, end="\n\n")
    print(f"{len(failures)} of the site's code files and pages failed." if failures else "All code of the site runs.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
