"""pandas, which is only imported where a DataFrame or a file of its kinds is given or asked for."""

import sys
from typing import Any

from pushforward.errors import UserError


def is_frame(value: Any) -> bool:
    """Return whether a value is a DataFrame, or a Series, which is a table of one column: of pandas, polars, pyarrow, or another library.

    Those of other libraries are converted by their own `to_pandas`.
    """
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, pandas.DataFrame | pandas.Series):
        return True
    return callable(getattr(value, "to_pandas", None)) and len(getattr(value, "shape", ())) in (1, 2)


def as_pandas(name: str, frame: Any) -> Any:
    """Return a DataFrame or Series of any library as one of pandas.

    Raises:
        UserError: a package that the conversion needs is not installed.
    """
    pandas = pandas_for(name)
    if isinstance(frame, pandas.DataFrame | pandas.Series):
        return frame
    try:
        return frame.to_pandas()
    except ImportError as error:
        raise UserError(f"{name} needs the package {error.name} to be converted to pandas; run pip install {error.name}.") from None


def pandas_for(what: object, parquet: bool = False) -> Any:
    """Return pandas.

    Raises:
        UserError: it is not installed, or pyarrow where a .parquet file needs it.
    """
    try:
        import pandas

        if parquet:
            import pyarrow  # noqa: F401
    except ImportError as error:
        raise UserError(f"{what} needs the package {error.name}; run pip install 'pushforward[tables]', or use .csv.") from None
    return pandas
