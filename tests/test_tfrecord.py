"""The TFRecord codec against protobuf, Grain and a bitwise CRC, and against damaged bytes."""

import struct
from pathlib import Path

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2

from emojax.datasets import tfrecord
from emojax.errors import InputError
from tests.refusals import refused

FEATURES = st.dictionaries(st.text(max_size=20), st.binary(max_size=300), max_size=6)


def bitwise_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = bitwise_crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def framed(payload: bytes) -> bytes:
    header, footer, _ = tfrecord.frame_record(payload)
    return header + payload + footer


def test_crc_of_the_standard_check_string() -> None:
    assert bitwise_crc32c(b"123456789") == 0xE3069283  # RFC 3720
    assert tfrecord.masked_crc(b"123456789") == masked(b"123456789")


@given(st.binary(max_size=100))
def test_frame_layout(payload: bytes) -> None:
    length = struct.pack("<Q", len(payload))
    expected = length + struct.pack("<I", masked(length))
    expected += payload + struct.pack("<I", masked(payload))
    assert framed(payload) == expected


@given(FEATURES)
def test_example_is_what_protobuf_reads(features: dict[str, bytes]) -> None:
    example = tf_example_pb2.Example.FromString(tfrecord.encode_example(features))
    read = {key: list(value.bytes_list.value) for key, value in example.features.feature.items()}
    assert read == {key: [value] for key, value in features.items()}


@given(FEATURES)
def test_located_bytes_are_the_features(features: dict[str, bytes]) -> None:
    payload = tfrecord.encode_example(features)
    located = tfrecord.locate_fields(memoryview(payload))
    assert {key: payload[start : start + n] for key, (start, n) in located.items()} == features


def test_numbers_and_unknown_protobuf_fields_are_skipped() -> None:
    example = tf_example_pb2.Example()
    example.features.feature["ints"].int64_list.value.extend([1, 2**62])
    example.features.feature["floats"].float_list.value.extend([1.5])
    example.features.feature["empty"].SetInParent()
    example.features.feature["kept"].bytes_list.value.append(b"kept")
    # Fields 9 to 12 of Example do not exist: a varint, 8 bytes, 4 bytes and a string.
    unknown = b"\x48\xff\x01" + b"\x51" + bytes(8) + b"\x5d" + bytes(4) + b"\x62\x02hi"
    payload = unknown + example.SerializeToString()
    tf_example_pb2.Example.FromString(payload)
    located = tfrecord.locate_fields(memoryview(payload))
    assert list(located) == ["kept"]
    start, length = located["kept"]
    assert payload[start : start + length] == b"kept"


def test_several_byte_strings_in_one_feature_are_refused() -> None:
    example = tf_example_pb2.Example()
    example.features.feature["key"].bytes_list.value.extend([b"a", b"b"])
    with pytest.raises(ValueError, match="one byte string"):
        tfrecord.locate_fields(memoryview(example.SerializeToString()))


@settings(max_examples=300)
@given(st.binary(max_size=60), FEATURES, st.data())
def test_any_bytes_give_fields_inside_the_payload_or_a_value_error(
    noise: bytes, features: dict[str, bytes], data: st.DataObject
) -> None:
    good = tfrecord.encode_example(features)
    cut = data.draw(st.integers(0, len(good)))
    for payload in (noise, good[:cut], good[:cut] + noise, noise + good):
        try:
            located = tfrecord.locate_fields(memoryview(payload))
        except ValueError:
            continue
        assert all(0 <= start <= start + n <= len(payload) for start, n in located.values())


def test_oversized_examples_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord, "MAX_PAYLOAD_BYTES", 10)
    with pytest.raises(ValueError, match="2 GiB"):
        tfrecord.encode_example({"key": bytes(8)})


def test_every_flipped_bit_of_a_frame_is_found() -> None:
    payload = np.random.default_rng(0).bytes(40)
    good = bytes(5) + framed(payload) + bytes(7)
    crc = tfrecord.masked_crc(payload)
    path = Path("shard")
    tfrecord.check_record(memoryview(good), 5, 40, crc, file=path)
    for position in range(5, len(good) - 7):
        for bit in range(8):
            bad = bytearray(good)
            bad[position] ^= 1 << bit
            with refused(file="shard", field="of the record at byte 5"):
                tfrecord.check_record(memoryview(bad), 5, 40, crc, file=path)


@pytest.mark.parametrize(
    ("offset", "length", "crc_change"),
    [(-1, 40, 0), (0, -1, 0), (1, 40, 0), (0, 39, 0), (0, 41, 0), (0, 2**62, 0), (0, 40, 1)],
)
def test_index_that_means_another_record(offset: int, length: int, crc_change: int) -> None:
    payload = bytes(range(40))
    crc = tfrecord.masked_crc(payload) ^ crc_change
    buffer = memoryview(framed(payload) + framed(payload))
    with pytest.raises(InputError) as caught:
        tfrecord.check_record(buffer, offset, length, crc, file=Path("shard"))
    assert {"file", "field", "found", "expected", "remedy"} <= set(caught.value.details)


def test_grain_reads_the_same_payloads(tmp_path: Path) -> None:
    payloads = [tfrecord.encode_example({"i": bytes([i]) * i}) for i in range(5)]
    path = tmp_path / "file.tfrecord"
    path.write_bytes(b"".join(framed(payload) for payload in payloads))
    assert list(grain.experimental.TFRecordIterDataset(str(path))) == payloads
