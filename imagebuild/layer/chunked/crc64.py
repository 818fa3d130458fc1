"""CRC-64 as tar-split has it: ECMA-182's form with the polynomial of ISO 3309, x^64 + x^4 + x^3 + x + 1 (Go's hash/crc64, table ISO).

The standard library has none. Bytes are taken as one large integer, lowest bit first, and that as a polynomial over GF(2), whose highest
degree is bit 0. For a power of two s, x^(64s) = x^(4s) + x^(3s) + x^s + 1 (squaring is linear), so that a few shifts of the whole integer
halve it.
"""

from __future__ import annotations

_ONES = (1 << 64) - 1
_PIECE = 64 << 10  # bytes; larger integers leave the processor's cache


def update_crc64(data: bytes, crc: int = 0) -> int:
    """The checksum of what ``crc`` is the checksum of, followed by ``data``."""
    view = memoryview(data)
    for start in range(0, len(view), _PIECE):
        crc = _add_piece(view[start : start + _PIECE], crc)
    return crc


def _add_piece(piece: memoryview, crc: int) -> int:
    width = 8 * len(piece) + 64  # bits: the data times x^64
    value = int.from_bytes(piece, "little") ^ crc ^ _ONES
    step = 1 << max(0, (width // 64).bit_length() - 1)
    while step:
        while (over := min(width - 64 * step, 60 * step)) > 0:
            high = value & ((1 << over) - 1)  # stands for high * x^(width - over)
            value >>= over
            width -= over
            place = 64 * step - over
            for degree in (4 * step, 3 * step, step, 0):
                value ^= high << (place - degree) if place >= degree else high >> (degree - place)
        step >>= 1
    return value ^ _ONES
