#!/usr/bin/env python3
"""Small Parquet and Arrow files of every type, and their rows as pyarrow reads them.

    scripts/golden/columns.py tests/fixtures/data      (a Python with pyarrow and datasets)

Each file NAME.ENDING has its rows beside it in NAME.ENDING.jsonl: a JSON object a row, nulls left out, dates and times in ISO
8601 (with a zone: UTC), durations in seconds, decimals as numbers, bytes as text or base64, NaN as null.
"""

import base64
import datetime
import decimal
import json
import math
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import datasets  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.feather as feather  # noqa: E402
import pyarrow.ipc as ipc  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

UTC = datetime.timezone.utc


def plain(value):
    """A value of pyarrow's as JSON."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        if value and all(isinstance(item, tuple) for item in value):
            return {str(key): plain(item) for key, item in value if item is not None}
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, datetime.datetime) and value.tzinfo:
        return value.astimezone(UTC).isoformat()
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def expect(path: Path, rows):
    lines = [{key: plain(value) for key, value in row.items() if value is not None} for row in rows]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.with_name(path.name + ".jsonl").write_text(text, encoding="utf-8")


def types() -> pa.Table:
    when = datetime.datetime(2024, 2, 29, 23, 59, 58, 123456)
    turn = pa.struct([("role", pa.string()), ("content", pa.large_string()), ("tool_calls", pa.list_(pa.string()))])
    return pa.table({
        "text": pa.array(["plain", 'q"\\\n\u2028 日本 😀', None]),
        "large": pa.array(["a", "", None], pa.large_string()),
        "int8": pa.array([-128, 127, None], pa.int8()),
        "uint64": pa.array([0, 2**64 - 1, None], pa.uint64()),
        "int64": pa.array([-(2**63), 2**53 + 1, None]),
        "half": pa.array([0.5, -2.0, None], pa.float16()),
        "float": pa.array([0.5, float("nan"), None], pa.float32()),
        "double": pa.array([0.1, 1e300, float("-inf")]),
        "bool": pa.array([True, False, None]),
        "bytes": pa.array([b"ab", b"\xff\x00", None]),
        "fixed": pa.array([b"abc", b"\x80\x80\x80", None], pa.binary(3)),
        "decimal": pa.array([decimal.Decimal("12.30"), decimal.Decimal("-0.05"), None], pa.decimal128(10, 2)),
        "date": pa.array([datetime.date(1969, 12, 31), datetime.date(2024, 2, 29), None]),
        "time": pa.array([datetime.time(1, 2, 3), datetime.time(0, 0, 0, 1), None], pa.time64("us")),
        "stamp": pa.array([when, when.replace(microsecond=0), None], pa.timestamp("us")),
        "zone": pa.array([when.replace(tzinfo=UTC), None, None], pa.timestamp("us", "Europe/Berlin")),
        "seconds": pa.array([datetime.timedelta(seconds=90), datetime.timedelta(milliseconds=1), None]),
        "word": pa.array(["a", "b", None]).dictionary_encode(),
        "list": pa.array([[1, None, 3], [], None], pa.list_(pa.int64())),
        "vector": pa.array([[1.0, 2.0], [3.0, 4.0], None], pa.list_(pa.float32(), 2)),
        "nothing": pa.array([[], [], []], pa.list_(pa.null())),
        "null": pa.array([None, None, None]),
        "conversations": pa.array([
            [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None, "tool_calls": ["x"]}],
            [], None,
        ], pa.list_(turn)),
        "map": pa.array([[("k", 1), ("l", None)], [("m", 2)], None], pa.map_(pa.string(), pa.int64())),
        "deep": pa.array([{"a": {"b": [{"c": [[1], []]}]}}, None, {"a": None}]),
    })


def main(folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    table = types()
    rows = table.to_pylist()

    def parquet(name, table=table, rows=rows, **options):
        pq.write_table(table, folder / name, **options)
        expect(folder / name, rows)

    parquet("types.parquet", compression="zstd")
    few = table.select(["text", "bytes", "list", "conversations", "word"])
    for codec in ["snappy", "gzip", "brotli", "lz4"]:
        parquet(f"{codec}.parquet", few, few.to_pylist(), compression=codec, data_page_version="2.0",
                use_dictionary=codec == "gzip", row_group_size=2, store_schema=codec != "brotli")

    views = table.append_column("view", pa.array(["short", "longer than twelve bytes", None], pa.string_view()))
    views = views.append_column("runs", pa.RunEndEncodedArray.from_arrays(pa.array([2, 3]), pa.array(["r", None])))
    views = views.append_column("over", pa.array([[1], [2, 3], None], pa.list_view(pa.int64())))
    with ipc.new_file(folder / "types.arrow", views.schema, options=ipc.IpcWriteOptions(compression="lz4")) as out:
        out.write_table(views)
    expect(folder / "types.arrow", views.to_pylist())
    with ipc.new_stream(folder / "stream.arrow", table.schema, options=ipc.IpcWriteOptions(compression="zstd")) as out:
        out.write_table(table, max_chunksize=2)
    expect(folder / "stream.arrow", rows)
    feather.write_feather(few, str(folder / "feather.arrow"))
    expect(folder / "feather.arrow", few.to_pylist())

    chats = datasets.Dataset.from_dict(
        {"messages": [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": {"x": [1, "a"]}}]], "label": [1]},
        on_mixed_types="use_json")
    chats.to_parquet(folder / "json.parquet")
    expect(folder / "json.parquet", chats.to_list())
    numbers = datasets.Dataset.from_dict({"text": [f"row {i}" for i in range(5)]})
    numbers.save_to_disk(str(folder / "saved"), num_shards=2)
    both = datasets.DatasetDict({"train": numbers, "test": numbers.select([4])})
    both.save_to_disk(str(folder / "splits"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
