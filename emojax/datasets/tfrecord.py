"""TFRecord framing and tf.train.Example payloads, without TensorFlow.

A TFRecord file is a sequence of frames, all numbers little endian:

    uint64 length | uint32 masked CRC of the length | payload | uint32 masked CRC of the payload

Reading never copies: a frame is checked in the buffer it lies in and ``locate_fields`` walks the
protobuf wire format to find where each feature's bytes are.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import crc32c

from emojax.errors import InputError

HEADER_BYTES = 12
FOOTER_BYTES = 4
FRAME_BYTES = HEADER_BYTES + FOOTER_BYTES
# Protobuf refuses messages of 2 GiB; a margin is left for the keys.
MAX_PAYLOAD_BYTES = 2**31 - 2**20
# A record has a few dozen features. Each is a few fields, which are walked one by one.
_MAX_FEATURES = 10_000
_MAX_FIELDS = 20 * _MAX_FEATURES
_MAX_KEY_BYTES = 1000
_MASK_DELTA = 0xA282EAD8
# Checksums are computed over this many bytes at a time.
_PART_BYTES = 1 << 24
_REBUILD = "the file is damaged: copy it again or build the store again"


def masked_crc(data: bytes | memoryview, after_part: Callable[[], None] | None = None) -> int:
    """Computes TFRecord's checksum: CRC-32C of ``data``, rotated right by 15 bits, plus a constant.

    ``after_part`` is called after every 16 MiB.
    """
    view, crc = memoryview(data), 0
    for start in range(0, len(view), _PART_BYTES):
        crc = crc32c.crc32c(view[start : start + _PART_BYTES], crc)
        if after_part is not None:
            after_part()
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def frame_record(payload: bytes) -> tuple[bytes, bytes, int]:
    """Returns the bytes before and after a payload, and the payload's masked CRC."""
    length = struct.pack("<Q", len(payload))
    crc = masked_crc(payload)
    return length + struct.pack("<I", masked_crc(length)), struct.pack("<I", crc), crc


def check_record(
    buffer: memoryview,
    offset: int,
    length: int,
    crc: int,
    *,
    file: Path,
    after_part: Callable[[], None] | None = None,
) -> None:
    """Checks the record at ``offset`` against its own checksums and against the index.

    Args:
        buffer: the whole file.
        offset: the position of the frame in the file.
        length: payload bytes according to the index.
        crc: masked CRC of the payload according to the index.
        file: named in errors.
        after_part: see ``masked_crc``.

    Raises:
        InputError: the frame leaves the file, a checksum does not match, or the record is not
            the one that the index means.
    """
    end = offset + FRAME_BYTES + length
    if offset < 0 or length < 0 or end > len(buffer):
        raise InputError(
            "A record lies outside its shard.",
            file=file,
            field=f"record at byte {offset}",
            found=f"{len(buffer)} bytes in the file",
            expected=f"at least {end}",
            remedy=_REBUILD,
        )
    stored_length, length_crc = struct.unpack_from("<QI", buffer, offset)
    (data_crc,) = struct.unpack_from("<I", buffer, end - FOOTER_BYTES)
    _check(
        masked_crc(buffer[offset : offset + 8]), length_crc, "length checksum", file, offset, True
    )
    _check(stored_length, length, "record length", file, offset, False)
    _check(data_crc, crc, "data checksum against the index", file, offset, False)
    payload = buffer[offset + HEADER_BYTES : end - FOOTER_BYTES]
    _check(masked_crc(payload, after_part), crc, "data checksum", file, offset, True)


def encode_example(features: Mapping[str, bytes]) -> bytes:
    """Serialises a ``tf.train.Example`` with one bytes value per feature, keys sorted.

    Raises:
        ValueError: the features exceed ``MAX_PAYLOAD_BYTES``.
    """
    # Imported here because it takes 0.15 s and readers never need it.
    from tensorflow_datasets.proto import tf_example_pb2

    total = sum(len(key) + len(value) for key, value in features.items())
    if total > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a record of {total} bytes exceeds protobuf's limit of 2 GiB")
    example = tf_example_pb2.Example()
    for key, value in features.items():
        example.features.feature[key].bytes_list.value.append(value)
    return example.SerializeToString(deterministic=True)


def locate_fields(payload: memoryview) -> dict[str, tuple[int, int]]:
    """Finds the bytes of each feature of a serialised ``tf.train.Example``.

    Features that hold numbers instead of bytes are skipped.

    Args:
        payload: the serialised message.

    Returns:
        feature name -> (offset, length) in ``payload``.

    Raises:
        ValueError: the payload is not an Example, a feature holds several byte strings, or
            there are more features or fields than a record has.
    """
    # Example{1: Features{1: map entry{1: key, 2: Feature{1: BytesList{1: value}}}}}
    found: dict[str, tuple[int, int]] = {}
    budget = itertools.count(_MAX_FIELDS, -1)

    def messages(start: int, stop: int, number: int) -> Iterator[tuple[int, int]]:
        return _messages(payload, start, stop, number, budget)

    for features in messages(0, len(payload), 1):
        for entry in messages(*features, 1):
            keys = list(messages(*entry, 1))
            values = [
                value
                for feature in messages(*entry, 2)
                for bytes_list in messages(*feature, 1)
                for value in messages(*bytes_list, 1)
            ]
            if len(keys) != 1 or len(values) > 1:
                raise ValueError("a feature does not hold one key and one byte string")
            if values:
                (start, stop), (key_start, key_stop) = values[0], keys[0]
                if key_stop - key_start > _MAX_KEY_BYTES or len(found) >= _MAX_FEATURES:
                    raise ValueError("a record has too many features, or one of too long a name")
                found[bytes(payload[key_start:key_stop]).decode()] = (start, stop - start)
    return found


def _check(found: int, expected: int, what: str, file: Path, offset: int, damaged: bool) -> None:
    """Compares two values of a record; ``damaged`` if it contradicts itself, not the index."""
    if found == expected:
        return
    raise InputError(
        "A record is damaged." if damaged else "A record is not the one its index describes.",
        file=file,
        field=f"{what} of the record at byte {offset}",
        found=found,
        expected=expected,
        remedy=_REBUILD,
    )


def _messages(
    data: memoryview, start: int, stop: int, number: int, budget: Iterator[int]
) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) of each length-delimited field with this number inside a message.

    ``budget`` counts down the fields that may still be walked.
    """
    position = start
    while position < stop:
        if next(budget) <= 0:
            raise ValueError("a record has too many fields")
        tag, position = _varint(data, position, stop)
        wire_type = tag & 7
        if wire_type == 0:
            _, position = _varint(data, position, stop)
        elif wire_type == 1:
            position += 8
        elif wire_type == 2:
            size, position = _varint(data, position, stop)
            if position + size > stop:
                raise ValueError("a protobuf field runs past its message")
            if tag >> 3 == number:
                yield position, position + size
            position += size
        elif wire_type == 5:
            position += 4
        else:
            raise ValueError(f"unknown protobuf wire type {wire_type}")
    if position != stop:
        raise ValueError("a protobuf field runs past its message")


def _varint(data: memoryview, position: int, stop: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= stop:
            raise ValueError("a protobuf number runs past its message")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a protobuf number is too long")
