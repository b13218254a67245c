#!/usr/bin/env python3
"""Reads a frame and prints its snapshot as JSON: docs/wire-format.md in Python, with nothing of this project.

    read_frame.py FRAME [KEY]     FRAME and KEY: spool files, or Kafka messages one after the other;
                                  KEY is the key frame that a delta frame needs
    read_frame.py --header FRAME  prints what the frame says beside its body

In JSON, bytes are text: what is not UTF-8 is \\xNN and a backslash is \\\\, as `edr-agentd snapshot --format json` has it.
"""
import json
import sys

import blake3
import msgpack
import zstandard

VERSION = 1
RAW_BYTES_MAX = 32 << 20
WINDOW_BYTES_MAX = 1 << 26
OUTSIDE_CONTENT = ("part", "parts", "key_id", "sig", "body", "sum")


def records(data):
    """The records of a file, each checked against its own checksum, with the hash of its content."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    start = 0
    while start < len(data):
        record, content = {}, blake3.blake3()
        for _ in range(unpacker.read_map_header()):
            field = unpacker.tell()
            name = unpacker.unpack()
            record[name] = unpacker.unpack()
            if name not in OUTSIDE_CONTENT:
                content.update(data[field : unpacker.tell()])
        end = unpacker.tell()
        if next(iter(record)) != "v" or record["v"] != VERSION:
            raise ValueError(f"record at byte {start}: not version {VERSION}")
        if blake3.blake3(data[start : end - 16]).digest()[:16] != record["sum"]:
            raise ValueError(f"record at byte {start}: checksum does not fit its bytes")
        record["content_hash"] = content.digest()
        yield record
        start = end


def assemble(path):
    """The one frame of a file: its first record, with the bodies of all parts joined."""
    with open(path, "rb") as file:
        parts = {record["part"]: record for record in records(file.read())}
    frame = parts[0]
    if sorted(parts) != list(range(frame["parts"])):
        raise ValueError(f"{path}: {len(parts)} of {frame['parts']} parts")
    for part in parts.values():
        for field in ("host_id", "epoch", "seq", "content_hash", "parts"):
            if part[field] != frame[field]:
                raise ValueError(f"{path}: parts of different frames")
    return {**frame, "body": b"".join(parts[n]["body"] for n in range(frame["parts"]))}


def open_frame(frame, key=None):
    """The uncompressed snapshot of a frame; `key` is the key frame of a delta."""
    dictionary = None
    if frame["kind"] == "delta":
        if key is None or (key["epoch"], key["seq"]) != (frame["epoch"], frame["base_seq"]):
            raise ValueError(f"a delta needs the key frame {frame['epoch']}/{frame['base_seq']}")
        dictionary = zstandard.ZstdCompressionDict(open_frame(key), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    if frame["raw_len"] > RAW_BYTES_MAX:
        raise ValueError(f"raw_len is {frame['raw_len']}, {RAW_BYTES_MAX} is allowed")
    decompressor = zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=WINDOW_BYTES_MAX)
    # Read, not decompress(): that would believe the size that the zstd header claims.
    raw = decompressor.stream_reader(frame["body"]).read(frame["raw_len"] + 1)
    if len(raw) != frame["raw_len"] or blake3.blake3(raw).digest() != frame["raw_hash"]:
        raise ValueError("the body is not the snapshot that the header describes")
    return raw


def text_of(value):
    """The JSON form of bytes."""
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value)} in a snapshot")
    text = value.decode("utf-8", "surrogateescape").replace("\\", "\\\\")
    return "".join(f"\\x{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else c for c in text)


def main(args):
    if len(args) == 2 and args[0] == "--header":
        frame = assemble(args[1])
        value = {name: field for name, field in frame.items() if name not in ("body", "part", "sum")}
        for name in ("raw_hash", "content_hash", "key_id", "sig"):
            value[name] = value[name].hex()
    elif len(args) in (1, 2) and not args[0].startswith("-"):
        key = assemble(args[1]) if len(args) == 2 else None
        value = msgpack.unpackb(open_frame(assemble(args[0]), key))
    else:
        sys.exit(__doc__)
    json.dump(value, sys.stdout, default=text_of, ensure_ascii=False)
    print()


if __name__ == "__main__":
    main(sys.argv[1:])
