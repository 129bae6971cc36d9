"""Mistakes as sentences on the page, after which the app continues."""

import contextlib
import functools
import inspect
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from pushforward._memory import is_memory_error
from pushforward.app.chinese import in_chinese, wanted
from pushforward.errors import PushforwardError


def answered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function or generator of the page whose errors are shown to the visitor in one sentence."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def stream(*arguments: Any) -> Iterator[Any]:
            with sentences():
                yield from function(*arguments)

        return stream

    @functools.wraps(function)
    def once(*arguments: Any) -> Any:
        with sentences():
            return function(*arguments)

    return once


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Turn errors into those that gradio shows; what is a defect of the app is also printed in the terminal."""
    import gradio

    try:
        yield
    except gradio.Error:
        raise
    except PushforwardError as error:
        raise _shown(str(error)) from None
    except Exception as error:
        if is_memory_error(error):
            raise _shown("the memory is too small for this; ask for fewer samples.") from None
        traceback.print_exc()
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _shown(f"this failed ({type(error).__name__}: {first[:200]}); try other settings. The app continues.") from None


def _shown(sentence: str) -> Exception:
    """Return the error that shows a sentence, in the language of the browser that asked."""
    import gradio
    from gradio.context import LocalContext

    request = LocalContext.request.get(None)
    if request is not None and wanted(request.headers):
        return gradio.Error(in_chinese(sentence), duration=None, print_exception=False)
    return gradio.Error(sentence, duration=None, print_exception=False)
