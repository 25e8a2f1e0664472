"""How a table is described: columns with a type and a meaning. Arrow schemas and the documentation render from this."""

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

# Lance reads this field metadata as the (unenforced) primary key of insert-if-absent.
_KEY = {"lance-schema:unenforced-primary-key": "true"}
_ZSTD = {"lance-encoding:compression": "zstd"}


@dataclass(frozen=True)
class Column:
    """One column. `zstd` is worth it for logprobs and token ids (docs/store.md)."""

    name: str
    type: pa.DataType
    doc: str
    zstd: bool = False


@dataclass(frozen=True)
class Table:
    """One table of a store.

    Attributes:
        key: Name of the string column that identifies a row.
        replay: What happens when a row is written a second time, by a retry or a run that is started again.
    """

    name: str
    doc: str
    key: str
    columns: tuple[Column, ...]
    replay: str = "inserted if absent, so nothing changes"

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema, with the key marked for Lance and compressed columns marked on list and item."""
        return pa.schema([self._field(column) for column in self.columns])

    @cached_property
    def names(self) -> frozenset[str]:
        """Of the columns."""
        return frozenset(self.schema.names)

    @cached_property
    def struct(self) -> pa.StructType:
        """A row as one Arrow value: what dicts are converted to in one go."""
        return pa.struct(list(self.schema))

    def _field(self, column: Column) -> pa.Field:
        if column.name == self.key:
            return pa.field(column.name, column.type, nullable=False, metadata=_KEY)
        if column.zstd:
            item = pa.field("item", column.type.value_type, metadata=_ZSTD)
            return pa.field(column.name, pa.list_(item), metadata=_ZSTD)
        return pa.field(column.name, column.type)
