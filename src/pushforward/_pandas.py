"""pandas, which is only imported where a DataFrame or a file of its kinds is given or asked for."""

import sys
from typing import Any

from pushforward.errors import UserError


def is_frame(value: Any) -> bool:
    """Return whether a value is a DataFrame of pandas, or a Series, which is a table of one column."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame | pandas.Series)


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
