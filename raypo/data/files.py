"""Rows from files: JSONL, JSON, Parquet, CSV and TSV, the text ones gzipped or not."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from raypo.errors import DataError

Numbered = tuple[int, dict[str, Any]]


def read_file(path: Path) -> Iterator[Numbered]:
    """(number, values) of each row; numbers count from 1, in JSONL they are line numbers."""
    suffix = "".join(path.suffixes[-2:]).removesuffix(".gz").rsplit(".", 1)[-1].lower()
    if suffix == "parquet":
        return _parquet(path)
    if suffix not in READERS:
        raise DataError(f"{path}: unknown kind of file {path.suffix!r}; allowed: {', '.join(sorted(SUFFIXES))}")
    return _text(path, READERS[suffix])


def _text(path: Path, read: Callable[[TextIO, Path], Iterator[Numbered]]) -> Iterator[Numbered]:
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig", newline="") if path.suffix == ".gz" else _open(path) as stream:
            yield from read(stream, path)
    except (gzip.BadGzipFile, zlib.error, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read, {error}; the file is damaged or not what its name says") from error


def _open(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", newline="")


def _jsonl(stream: TextIO, path: Path) -> Iterator[Numbered]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} row {number}: not JSON, {error}; each line must be one JSON object") from None
        yield number, _object(values, path, number)


def _json(stream: TextIO, path: Path) -> Iterator[Numbered]:
    try:
        data = json.load(stream)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON, {error}; for one object a line name the file .jsonl") from None
    if isinstance(data, dict):
        lists = [value for value in data.values() if isinstance(value, list)]
        if len(data) == 1 and lists:
            data = lists[0]
        else:
            data = [{"key": key, **_object(values, path, i)} for i, (key, values) in enumerate(data.items(), 1)]
    if not isinstance(data, list):
        raise DataError(f"{path}: holds {type(data).__name__}; allowed: a list of objects, or objects under keys")
    for number, values in enumerate(data, 1):
        yield number, _object(values, path, number)


def _separated(delimiter: str) -> Callable[[TextIO, Path], Iterator[Numbered]]:
    def read(stream: TextIO, path: Path) -> Iterator[Numbered]:
        csv.field_size_limit(sys.maxsize)
        for number, values in enumerate(csv.DictReader(stream, delimiter=delimiter), 1):
            if None in values or None in values.values():
                raise DataError(f"{path} row {number}: more or fewer fields than the header names")
            yield number, values

    return read


def _parquet(path: Path) -> Iterator[Numbered]:
    import pyarrow
    from pyarrow import parquet

    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches():
            for values in batch.to_pylist():
                number += 1
                yield number, values
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file, {error}") from error


def _object(values: Any, path: Path, number: int) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise DataError(f"{path} row {number}: must be an object with named columns, got {type(values).__name__}")
    return values


READERS = {"jsonl": _jsonl, "ndjson": _jsonl, "json": _json, "csv": _separated(","), "tsv": _separated("\t")}
SUFFIXES = {f".{name}{gz}" for name in READERS for gz in ("", ".gz")} | {".parquet"}
