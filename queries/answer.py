"""The rows of a query, in several forms."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..base.html import html_table

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import polars as pl

_SHOWN_ROWS = 20


@dataclass(frozen=True)
class Answer:
    """Rows held as Arrow. Libraries that read Arrow streams (`pl.DataFrame(answer)`, `pa.table(answer)`) accept it directly.

    The methods have the names of DuckDB's relations.

    Attributes:
        table: The rows.
    """

    table: pa.Table

    def arrow(self) -> pa.Table:
        """The rows as a pyarrow.Table, without a copy."""
        return self.table

    def pl(self) -> "pl.DataFrame":
        """The rows as a Polars data frame."""
        import polars as pl

        return pl.DataFrame(self.table)

    def df(self) -> "pd.DataFrame":
        """The rows as a pandas data frame. Raises MissingExtra when pandas is not installed."""
        from ..base.errors import MissingExtra

        try:
            return self.table.to_pandas()
        except ImportError as error:
            raise MissingExtra("The package pandas is not installed.", "Run `pip install pandas`.") from error

    def relation(self) -> "duckdb.DuckDBPyRelation":
        """The rows as a relation of a new DuckDB connection: `answer.relation().filter("n > 3")`."""
        import duckdb

        return duckdb.connect().from_arrow(self.table)

    def rows(self) -> list[dict[str, Any]]:
        """The rows as dictionaries."""
        return self.table.to_pylist()

    def __len__(self) -> int:
        return self.table.num_rows

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(requested_schema)

    def _repr_html_(self) -> str:
        return html_table(self.table.slice(0, _SHOWN_ROWS).to_pylist(), total=self.table.num_rows)
