"""How a table is defined: the annotated fields of a class, or a list of columns. Schemas, rows, the documentation and SQL render from it.

A field of a class becomes a column by a mark in its annotation::

    reward: Annotated[float | None, Stored("the environment's verdict at collection time; null when there is none")] = None

The Arrow type follows from the annotation (str, bool, datetime, int as int32, float as float32, lists, dataclasses and named tuples as structs)
unless the mark names another one. Fields without a mark are not stored.
"""

import dataclasses
import json
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from operator import attrgetter
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

from ..base.errors import SchemaMismatch

# Lance reads this field metadata as the (unenforced) primary key of insert-if-absent.
_KEY = {"lance-schema:unenforced-primary-key": "true"}
_ZSTD = {"lance-encoding:compression": "zstd"}
_SCALARS = {
    str: pa.string(),
    bool: pa.bool_(),
    int: pa.int32(),
    float: pa.float32(),
    datetime: pa.timestamp("us", tz="UTC"),
}
_UNFIT = (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError)
_FIX = "See docs/store.md for its columns."

INSERTED = "inserted if absent"
"""The first row of a key stays."""

Convert = Callable[[Any], Any] | None
"""Changes one value that is not None; None leaves every value as it is."""


@dataclass(frozen=True)
class Column:
    """One column. `zstd` is worth it for logprobs and token ids (docs/store.md)."""

    name: str
    type: pa.DataType
    doc: str
    zstd: bool = False


@dataclass(frozen=True)
class Stored:
    """Marks a field of a class as a column.

    Attributes:
        doc: The column's meaning, as docs/store.md prints it.
        type: The Arrow type; None derives it from the annotation.
        zstd: As in `Column`.
        text: For a JSON value: returns its text, None for null. The column is then a string, and is read back as JSON.
        like: For a field whose annotation is a descriptor: the type of its values.
    """

    doc: str = ""
    type: pa.DataType | None = None
    zstd: bool = False
    text: Callable[[Any], str | None] | None = None
    like: Any = None


def json_text(value: Any) -> str | None:
    """A value as JSON text, None for None."""
    return None if value is None else json.dumps(value, ensure_ascii=False)


def json_object_text(value: Any) -> str | None:
    """An object as JSON text, None for None and for an empty one."""
    return json_text(dict(value)) if value else None


@dataclass(frozen=True)
class Table:
    """One table of a store.

    Attributes:
        key: Name of the string column that identifies a row.
        replay: What happens when a row is written a second time, by a retry or a run that is started again.
        of: The class whose objects are rows; None for a table that has none.
        later: Whether a version after the first added it: a store without it is sound, and reads as if it were empty.
    """

    name: str
    doc: str
    key: str
    columns: tuple[Column, ...]
    replay: str = INSERTED
    of: type | None = None
    later: bool = False

    @classmethod
    def of_class(cls, name: str, doc: str, key: str, of: type, replay: str | None = None, order: Sequence[str] = ()) -> "Table":  # fmt: skip
        """The table whose columns are the marked fields of a class.

        Args:
            order: The columns in stored order, where it is not the class's; those it leaves out come last.
        """
        fields = _stored_fields(of)
        names = [*order, *(column for column in fields if column not in order)]
        columns = tuple(_column(column, *fields[column]) for column in names)
        return cls(name, doc, key, columns, INSERTED if replay is None else replay, of)

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema, with the key marked for Lance and compressed columns marked on list and item."""
        return pa.schema([self._field(column) for column in self.columns])

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the columns."""
        return frozenset(self.schema.names)

    @cached_property
    def struct(self) -> pa.StructType:
        """A row as one Arrow value: what dicts and tuples are converted to in one go."""
        return pa.struct(list(self.schema))

    def batch(self, objects: Iterable[Any]) -> pa.RecordBatch:
        """Objects of the table's class as one record batch. Raises SchemaMismatch naming what does not fit."""
        get, encoders = self._get, self._encoders
        rows = []
        for one in objects:
            values = list(get(one))
            for position, encode in encoders:
                if values[position] is not None:
                    values[position] = encode(values[position])
            rows.append(tuple(values))
        return self._converted(rows)

    def batch_of_rows(self, rows: Iterable[Mapping[str, Any]]) -> pa.RecordBatch:
        """Dicts as one record batch; missing columns are null. Raises SchemaMismatch naming what does not fit."""
        listed = [row if isinstance(row, dict) else dict(row) for row in rows]
        for row in listed:
            if not row.keys() <= self.names:
                raise SchemaMismatch(f"Table {self.name} has no column {min(row.keys() - self.names)!r}.", _FIX)
        return self._converted(listed)

    def row(self, one: Any) -> dict[str, Any]:
        """An object of the table's class as the table returns it: by column, with structs as dicts and JSON as text."""
        values = zip(self.schema.names, self._get(one), self._row_encoders, strict=True)
        return {name: encode(value) if encode and value is not None else value for name, value, encode in values}

    def values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The field values of a row that was read, by name. Columns that the row lacks, and JSON columns that are null, are left out."""
        found = {}
        for name, decode, is_json in self._decoders:
            if name in row:
                value = row[name]
                if value is None and is_json:
                    continue
                found[name] = decode(value) if decode and value is not None else value
        return found

    def _converted(self, rows: list[Any]) -> pa.RecordBatch:
        try:
            # One conversion of whole rows: column by column costs several times as much when rows come one by one.
            structs = pa.array(rows, type=self.struct)
        except _UNFIT as error:
            raise SchemaMismatch(f"A row does not fit table {self.name}: {error}.", _FIX) from error
        return pa.RecordBatch.from_struct_array(structs)

    def _field(self, column: Column) -> pa.Field:
        if column.name == self.key:
            return pa.field(column.name, column.type, nullable=False, metadata=_KEY)
        if column.zstd and pa.types.is_string(column.type):
            return pa.field(column.name, column.type, metadata=_ZSTD)
        if column.zstd:
            item = pa.field("item", column.type.value_type, metadata=_ZSTD)
            return pa.field(column.name, pa.list_(item), metadata=_ZSTD)
        return pa.field(column.name, column.type)

    @cached_property
    def _get(self) -> Callable[[Any], tuple[Any, ...]]:
        return attrgetter(*self.schema.names)

    @cached_property
    def _hints(self) -> list[tuple[Any, Stored]]:
        if self.of is None:
            raise TypeError(f"table {self.name} has no class")
        fields = _stored_fields(self.of)
        return [fields[name] for name in self.schema.names]

    @cached_property
    def _encoders(self) -> list[tuple[int, Callable[[Any], Any]]]:
        found = [(number, stored.text or _encoder(hint, tuple)) for number, (hint, stored) in enumerate(self._hints)]
        return [(number, encode) for number, encode in found if encode]

    @cached_property
    def _row_encoders(self) -> list[Convert]:
        return [stored.text or _encoder(hint, dict) for hint, stored in self._hints]

    @cached_property
    def _decoders(self) -> list[tuple[str, Convert, bool]]:
        pairs = zip(self.schema.names, self._hints, strict=True)
        return [(name, json.loads if stored.text else _decoder(hint), bool(stored.text)) for name, (hint, stored) in pairs]  # fmt: skip


def _stored_fields(of: type) -> dict[str, tuple[Any, Stored]]:
    """The marked fields of a class, in order: type and mark."""
    found = {}
    for name, hint in get_type_hints(of, include_extras=True).items():
        marks = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Stored)]
        if marks:
            found[name] = (marks[0].like or get_args(hint)[0], marks[0])
    return found


def _column(name: str, hint: Any, stored: Stored) -> Column:
    type = stored.type or (pa.string() if stored.text else arrow_type(hint))
    return Column(name, type, stored.doc, stored.zstd)


def arrow_type(hint: Any) -> pa.DataType:
    """The Arrow type of values of a Python type. Raises TypeError when none follows from it."""
    hint, stored = _plain(hint)
    if stored is not None and stored.type is not None:
        return stored.type
    if hint in _SCALARS:
        return _SCALARS[hint]
    if get_origin(hint) in (list, tuple):
        return pa.list_(arrow_type(get_args(hint)[0]))
    if _is_struct(hint):
        return pa.struct([(name, arrow_type(of)) for name, of in _struct_fields(hint).items()])
    raise TypeError(f"{hint!r} has no Arrow type: name one with Stored(type=…)")


def _plain(hint: Any) -> tuple[Any, Stored | None]:
    """The type without its mark and without `| None`, and the mark."""
    stored = None
    if get_origin(hint) is Annotated:
        stored = next((mark for mark in hint.__metadata__ if isinstance(mark, Stored)), None)
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, types.UnionType):
        some = [part for part in get_args(hint) if part is not type(None)]
        hint = some[0] if len(some) == 1 else hint
    return hint, stored


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and (dataclasses.is_dataclass(hint) or hasattr(hint, "_fields"))


def _struct_fields(hint: type) -> dict[str, Any]:
    names = getattr(hint, "_fields", None) or [field.name for field in dataclasses.fields(hint)]
    hints = get_type_hints(hint, include_extras=True)
    return {name: hints[name] for name in names}


def _encoder(hint: Any, make: type) -> Convert:
    """Turns nested dataclasses and named tuples into what Arrow takes: tuples (quickest) or dicts."""
    hint, _ = _plain(hint)
    if get_origin(hint) in (list, tuple):
        of = _encoder(get_args(hint)[0], make)
        return None if of is None else lambda values: [of(value) for value in values]
    if not _is_struct(hint):
        return None
    fields = _struct_fields(hint)
    inner = [_encoder(of, make) for of in fields.values()]
    parts = [(number, change) for number, change in enumerate(inner) if change is not None]
    named_tuple = hasattr(hint, "_fields")
    if make is tuple and named_tuple and not parts:
        return None
    get = (lambda value: tuple(value)) if named_tuple else attrgetter(*fields)

    def encode(value: Any) -> Any:
        values = get(value)
        if parts:
            values = list(values)
            for number, change in parts:
                values[number] = change(values[number]) if values[number] is not None else None
            values = tuple(values)
        return values if make is tuple else dict(zip(fields, values, strict=True))

    return encode


def _decoder(hint: Any) -> Convert:
    hint, _ = _plain(hint)
    origin = get_origin(hint)
    if origin in (list, tuple):
        inner = _decoder(get_args(hint)[0])
        if inner is None:
            return tuple if origin is tuple else None
        return lambda values: origin(inner(value) for value in values)
    if not _is_struct(hint):
        return None
    decoders = {name: _decoder(of) for name, of in _struct_fields(hint).items()}
    lists = {name for name, of in _struct_fields(hint).items() if get_origin(_plain(of)[0]) is tuple}

    def decode(value: Mapping[str, Any]) -> Any:
        given = {}
        for name, change in decoders.items():
            part = value.get(name)
            if part is None:
                given[name] = () if name in lists else None
            else:
                given[name] = change(part) if change else part
        return hint(**given)

    return decode
