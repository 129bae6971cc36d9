"""The server of the page: local, without telemetry, requests to other machines, or paths outside of it."""

import contextlib
import importlib.util
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pushforward.errors import UserError

LARGEST_UPLOAD = "20mb"
WAITING = 32  # requests in the queue; later ones are refused with a sentence
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SHARE": "False",
    "GRADIO_MCP_SERVER": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ALLOWED_PATHS": "",
}


def check_gradio() -> None:
    """Raise unless gradio is installed.

    Raises:
        UserError: it is not.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the app needs the package gradio; run pip install 'pushforward[app]'.")


def check_port(host: str, port: int) -> None:
    """Raise unless a server can listen at this address.

    Raises:
        UserError: the port is in use or not allowed, or the host is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
    except OSError as error:
        what = f"--host is {host} and --port {port}, where no server can listen ({error.strerror or error})"
        raise UserError(f"{what}; give another --port, or --host 127.0.0.1.") from None


@contextlib.contextmanager
def served(
    paths: Sequence[Path], host: str, port: int, *, browser: bool = False, checkpoint: str = "best", device: Any = "cpu"
) -> Iterator[str]:
    """Serve the page of some runs, and yield its address; at the end the server and what was uploaded are gone.

    Raises:
        UserError: a run cannot be used, or the address not.
    """
    check_gradio()
    check_port(host, port)
    with tempfile.TemporaryDirectory(prefix="pushforward-app-") as folder, _uploads_limited():
        os.environ.update(QUIET | {"GRADIO_TEMP_DIR": folder})  # before gradio is imported, which reads them
        from pushforward.app.loaded import load_all

        models = load_all(paths, checkpoint, device)  # what cannot be used is refused before the seconds that importing gradio takes
        from pushforward.app.page import STYLE, keyed, page, theme, words

        word = words()
        blocks = page(models, keyed(word)).queue(max_size=WAITING, default_concurrency_limit=2)
        _, address, _ = blocks.launch(
            server_name=host,
            server_port=port,
            inbrowser=browser,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            allowed_paths=[],
            blocked_paths=[str(path.resolve()) for path in paths],
            max_file_size=LARGEST_UPLOAD,
            footer_links=["settings"],
            enable_monitoring=False,
            run_history=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            theme=theme(),
            css=STYLE,
            i18n=word,
        )
        try:
            yield address
        finally:
            blocks.close(verbose=False)


@contextlib.contextmanager
def _uploads_limited() -> Iterator[None]:
    """Let PIL refuse large images: gradio opens uploads itself, before this app sees them."""
    import PIL.Image

    from pushforward.app.pixels import MOST_PIXELS

    before, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, MOST_PIXELS
    try:
        yield
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = before
