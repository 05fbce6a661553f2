"""Damaged and unusual image files, and a full disk, for the tests of prepare and predict."""

import resource
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np


def jpeg(pixels: np.ndarray) -> bytes:
    """The JPEG file of (h, w, 3) uint8 RGB."""
    return cv2.imencode(".jpg", pixels[..., ::-1])[1].tobytes()


def turned(content: bytes) -> bytes:
    """The JPEG file `content` with EXIF orientation 6: viewers turn it by 90 degrees."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[2:]


def png_of_size(height: int, width: int) -> bytes:
    """A PNG file with correct chunks, whose header states that size but which has no such data."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(b"\0")),
            (b"IEND", b""),
        )
    )


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """In the block, writing more than `size` bytes to a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
