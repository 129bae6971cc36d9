"""The formulas of the site: rendered by KaTeX when it is built, so that a page needs neither a script nor another site (see docs.py)."""

import html
import json
import re
import subprocess
from pathlib import Path

MARKED = re.compile(r'<(div|span) class="arithmatex">(.*?)</\1>', re.DOTALL)
# Every formula is rendered or answered by its error, in one process a page. Output: HTML for the eyes, MathML for screen readers.
SCRIPT = """
const katex = require(process.argv[1]);
const given = JSON.parse(require("fs").readFileSync(0, "utf8"));
const made = given.map(([formula, displayMode]) => {
  try { return [katex.renderToString(formula, { displayMode, strict: "error", trust: false }), ""]; }
  catch (error) { return ["", error.message]; }
});
process.stdout.write(JSON.stringify(made));
"""


class FormulaError(Exception):
    """A formula that cannot be rendered."""


def rendered(content: str, katex: Path) -> str:
    """Return a page with its formulas, as arithmatex marks them, rendered.

    Args:
        content: HTML.
        katex: katex.min.js.

    Raises:
        FormulaError: with the formula and KaTeX's message; or node is not installed.
    """
    found = [(html.unescape(match[2]).strip()[2:-2].strip(), match[1] == "div") for match in MARKED.finditer(content)]
    if not found:
        return content
    try:
        done = subprocess.run(
            ["node", "-e", SCRIPT, str(katex)], input=json.dumps(found), capture_output=True, check=True, encoding="utf-8"
        )
    except FileNotFoundError as error:
        raise FormulaError("there is no node, which renders formulas; install it (Debian and Ubuntu: apt install nodejs).") from error
    made = iter(zip(found, json.loads(done.stdout), strict=True))

    def replaced(match: re.Match[str]) -> str:
        (formula, block), (text, error) = next(made)
        if error:
            raise FormulaError(f"{formula} is not a formula: {error}")
        # Search reads the MathML once: not the source in its annotation, and not the letters that are drawn.
        text = re.sub(r"<annotation\b.*?</annotation>", "", text, flags=re.DOTALL)
        text = text.replace('<span class="katex-html"', '<span class="katex-html" data-search-exclude')
        return f'<div class="formula">{text}</div>' if block else text

    return MARKED.sub(replaced, content)


def stylesheet(css: str) -> str:
    """Return KaTeX's style with fonts next to it, in the only format that browsers of this decade need."""
    return re.sub(r'src:url\(fonts/([\w-]+\.woff2)\) format\("woff2"\)[^;}]*', r'src:url(\1) format("woff2")', css)
