"""Where preference data comes from: files, saved data sets, the Hugging Face hub, or a function of the user's."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from raypo.data.arguments import arguments_of, read_arguments
from raypo.data.files import SUFFIXES, read_file
from raypo.data.formats import COLUMNS, FORMATS, GATHERING, Format, recognise
from raypo.data.records import Record
from raypo.data.rows import Dropped, Row
from raypo.errors import DataError, nearest

_CODE = re.compile(r"[\w.]+:\w+")


@dataclass(frozen=True)
class Loaded:
    """Records of a source, the name of the format they were read in, and counts of rows read and dropped."""

    records: list[Record]
    format: str
    report: dict[str, int]


def load(
    source: str,
    *,
    split: str = "train",
    format: str | Mapping[str, Mapping[str, Any]] = "auto",
    columns: Mapping[str, str] | None = None,
    allow_code: bool = False,
    rows: int | None = None,
) -> Loaded:
    """Read a source whole, or no more than its first `rows` rows where a row is a record of its own.

    `source`: a file (.jsonl, .json, .csv, .tsv, also .gz; .parquet), a folder (saved by `datasets` or holding data
    files), a hub id ("org/name" or "org/name/subset"; HF_HUB_OFFLINE is respected), or with `allow_code` a Python
    function "module:function" that returns rows or records. `format`: a name of FORMATS, {name: {option: value}} or
    "auto". `columns`: our column name -> the data's.
    """
    columns = dict(columns or {})
    unknown = sorted(set(columns) - set(COLUMNS))
    if unknown:
        raise DataError(f"data.columns: no such columns {unknown}; allowed: {', '.join(COLUMNS)}")
    found = _numbered(source, split, allow_code, streaming=rows is not None)
    first = next(found, None)
    if first is None:
        raise DataError(f"{source}: no rows; a data set needs at least one")
    if isinstance(first[1], get_args(Record)):
        everything = _first_of(first, found, rows)
        return _finished(source, "records", len(everything), [record for _, record in everything], rows is None)
    reader, options = _format(format, Row(first[1], first[0], columns))
    everything = _first_of(first, found, None if reader in GATHERING else rows)
    read = (Row(values, where, columns) for where, values in everything)
    return _finished(source, reader.__name__, len(everything), _told(reader, options, read), rows is None)


def has_splits(source: str) -> bool:
    """Whether a source may hold several splits, as the hub and folders do; a file and a function are one."""
    path = Path(source).expanduser()
    one = path.is_file() or path.suffix in {".gz", *SUFFIXES} or (path / "state.json").exists()
    return not (one or _CODE.fullmatch(source))


def _first_of(first: Any, others: Iterator[Any], rows: int | None) -> list[Any]:
    return [first, *islice(others, None if rows is None else rows - 1)]


def _finished(source: str, name: str, rows: int, made: Iterable[Record | Dropped], whole: bool) -> Loaded:
    report = Counter(rows=rows)
    records: list[Record] = []
    for record in made:
        if isinstance(record, Dropped):
            report[f"dropped/{record.reason}"] += 1
        else:
            records.append(record)
    if whole and not records:
        raise DataError(f"{source}: no row is left of {rows}; {dict(report)}")
    return Loaded(records, name, dict(report))


def named_format(format: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of a format and its options, from either spelling of `data.format`."""
    if isinstance(format, str):
        return format, {}
    if len(format) != 1 or not isinstance(options := next(iter(format.values())), Mapping):
        raise DataError(
            f"data.format: needs one name, or one with its options, got {dict(format)!r}; "
            "such as pairs or {shp: {min_score_ratio: 3}}"
        )
    return next(iter(format)), dict(options)


def _format(format: str | Mapping[str, Any], first: Row) -> tuple[Format, dict[str, Any]]:
    name, given = named_format(format)
    if (name, given) == ("auto", {}):
        return recognise(first), {}
    if name not in FORMATS:
        allowed = ", ".join(("auto", *FORMATS))
        raise DataError(f"data.format: no such format {name!r}; allowed: {allowed}{nearest(name, FORMATS)}")
    problems: list[str] = []
    options = read_arguments(arguments_of(FORMATS[name]), given, f"data.format.{name}", problems)
    if problems:
        raise DataError("\n".join(problems))
    return FORMATS[name], options


def _told(reader: Format, options: Mapping[str, Any], rows: Iterable[Row]) -> Iterator[Record | Dropped]:
    """What a format makes of rows; one of another shape than the format's is named with its place."""
    last: list[Row] = []

    def noted() -> Iterator[Row]:
        for row in rows:
            last[:] = [row]
            yield row

    try:
        yield from reader(noted(), **options)
    except DataError:
        raise
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        shape = (inspect.getdoc(reader) or "").splitlines()[0]
        raise DataError(
            f"{last[0].where}: no row of format {reader.__name__} ({error!r}), found columns {last[0].found()}; "
            f"what it reads: {shape} Name another data.format, or map data.columns"
        ) from error


def _numbered(source: str, split: str, allow_code: bool, streaming: bool) -> Iterator[tuple[str, Any]]:
    """(place, row or record) of every row of a source; with `streaming` the hub sends no more than is read."""
    path = Path(source).expanduser()
    if path.is_file():
        return ((f"{path} row {number}", values) for number, values in read_file(path))
    if path.is_dir():
        return _placed(f"{path} ({split})", _folder(path, split, streaming))
    if _CODE.fullmatch(source):
        return _placed(source, _called(source, allow_code))
    if (
        source.startswith((".", "/", "~"))
        or path.suffix in {".gz", *SUFFIXES}
        or not re.fullmatch(r"[\w.-]+(/[\w.-]+){0,2}", source)
    ):
        raise DataError(f"{source}: no such file or folder.{_nearest(path)}")
    return _placed(f"{source} ({split})", _hub(source, split, streaming))


def _placed(source: str, rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{source} row {number}", row) for number, row in enumerate(rows, 1))


def _nearest(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f" There is no folder {parent} either."
    near = difflib.get_close_matches(path.name, [p.name for p in parent.iterdir()], 1)
    return f" Did you mean {near[0]!r}?" if near else f" {parent} holds nothing with a name like it."


def _called(source: str, allow_code: bool) -> Iterable[Any]:
    if not allow_code:
        raise DataError(f"{source}: is Python code; give --allow-code to run it")
    module, name = source.split(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # importing it runs whatever its module holds
        raise DataError(f"{source}: cannot be imported, {type(error).__name__}: {error}") from error
    if not callable(function):
        raise DataError(f"{source}: is no function, got {function!r:.80}")
    return _returned(source, function)


def _returned(source: str, function: Callable[[], Any]) -> Iterator[Any]:
    """Rows or records of a function that may do anything."""
    try:
        for row in function():
            if not isinstance(row, (Mapping, *get_args(Record))):
                raise DataError(f"{source}: must return rows (mappings) or records, got {row!r:.80} among them")
            yield row
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{source}: raises {type(error).__name__}: {error}; it must return rows or records") from error


def _folder(path: Path, split: str, streaming: bool) -> Iterable[Any]:
    import datasets

    if not any((path / name).exists() for name in ("state.json", "dataset_dict.json")):
        return _loaded(str(path), split, streaming=streaming)
    saved = datasets.load_from_disk(str(path))
    if not isinstance(saved, datasets.DatasetDict):
        return saved
    if split not in saved:
        raise DataError(f"{path}: no split {split!r}; found {', '.join(saved)}")
    return saved[split]


def _hub(source: str, split: str, streaming: bool) -> Iterable[Any]:
    org_name, subset = (
        ("/".join(source.split("/")[:2]), source.split("/")[2]) if source.count("/") == 2 else (source, None)
    )
    return _loaded(org_name, split, subset, streaming)


def _loaded(path: str, split: str, subset: str | None = None, streaming: bool = False) -> Iterable[Any]:
    import datasets

    streaming = streaming and not datasets.config.HF_HUB_OFFLINE  # without the hub its cache is whole already
    try:
        if subset is None or subset in datasets.get_dataset_config_names(path):
            return datasets.load_dataset(path, subset, split=split, streaming=streaming)
        return datasets.load_dataset(path, data_dir=subset, split=split, streaming=streaming)
    except (ValueError, FileNotFoundError, ConnectionError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{path}: cannot be loaded (split {split!r}, subset {subset!r}), {error}; "
            "give a local path, a hub id, or module:function"
        ) from error
