"""What a query answered, in the form the reader wants."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import duckdb
    import polars as pl


@dataclass(frozen=True)
class Answer:
    """Rows held as Arrow. Libraries that read Arrow streams (`pl.DataFrame(answer)`, `pa.table(answer)`) take it as it is.

    Attributes:
        table: The rows.
    """

    table: pa.Table

    def arrow(self) -> pa.Table:
        """As a pyarrow.Table."""
        return self.table

    def polars(self) -> "pl.DataFrame":
        """As a Polars data frame."""
        import polars as pl

        return pl.DataFrame(self.table)

    def duckdb(self) -> "duckdb.DuckDBPyRelation":
        """As a relation of a DuckDB connection of its own, to be asked on: `answer.duckdb().filter("n > 3")`."""
        import duckdb

        return duckdb.connect().from_arrow(self.table)

    def rows(self) -> list[dict[str, Any]]:
        """As dictionaries."""
        return self.table.to_pylist()

    def __len__(self) -> int:
        return self.table.num_rows

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(requested_schema)
