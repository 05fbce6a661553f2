"""Reads a raw folder: finds its pairs of image and mask, checks them, and decodes their pixels.

`find_parts` reads sizes and finds truncated and damaged files from the structure of the files,
without decoding them. That takes 0.1 s for the whole Dubai set, so all bad files are known before
anything is written. `decode` finds the damage that only decoding can show.
"""

import io
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import JpegImagePlugin

from segmentation.errors import UserError

TILE = re.compile(r"Tile ([1-9][0-9]*)")
PART = re.compile(r"image_part_([0-9]{3})")
SUFFIXES = {"images": ".jpg", "masks": ".png"}
"""Folder in a tile -> suffix of its files."""

MAX_PIXELS = 2**30
"""OpenCV decodes no image with more pixels."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER = struct.pack(">I4s", 13, b"IHDR")

# Markers of JPEG files: ITU T.81, table B.1.
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
"""Start of a frame. These segments hold the size of the image."""
_JPEG_SCAN = 0xDA

_MAX_UNREAD = 64
"""Bytes that a decoder may leave unread at the end of a JPEG's only scan: some encoders pad."""

_LOOKAHEAD = bytes(16)
"""libjpeg reads up to 8 bytes beyond the end of a scan into a register, without using them."""

Size = tuple[int, int]
"""Height and width in px."""


@dataclass(frozen=True)
class Part:
    """One image of `height` x `width` px with its mask: a ninth of a tile in the Dubai set."""

    tile: int
    part: int
    image: Path
    mask: Path
    height: int
    width: int
    checksums: tuple[str, str]
    """SHA-256 of the image file and of the mask file."""

    def __str__(self) -> str:
        return f"Tile {self.tile} part {self.part}"


def source_name(path: Path) -> str:
    """A source file as messages and the manifest call it: `Tile N/images/image_part_00K.jpg`."""
    return "/".join(path.parts[-3:])


def find_root(raw: Path) -> Path:
    """The folder that holds the `Tile N` folders: `raw`, or a folder in it as in the archive.

    Raises:
        UserError: Neither holds a tile.
    """
    for root in (raw, *(path for path in _list(raw) if path.is_dir())):
        if any(path.is_dir() and TILE.fullmatch(path.name) for path in _list(root)):
            return root
    raise UserError(
        f"{raw} holds no folder named 'Tile 1', 'Tile 2', ...; "
        "name the folder that does, or use --download"
    )


def _list(folder: Path) -> list[Path]:
    """The contents of a folder, sorted. UserError where it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from error


def find_parts(root: Path, smallest: int) -> tuple[list[Part], list[str]]:
    """The good pairs of image and mask in `root`, and one line per problem.

    Problems are files that are missing, unreadable, truncated, damaged or misnamed, images of
    another size than their mask, parts that are too small, and folders whose name is almost that
    of a tile.

    Args:
        root: The folder that holds the `Tile N` folders.
        smallest: Least height and width of a part in px.

    Returns:
        The parts, sorted by tile and part, and the problems.
    """
    tiles, problems = _find_tiles(root)
    parts = []
    for tile, folder in sorted(tiles.items()):
        images, misnamed_images = _find_files(folder / "images")
        masks, misnamed_masks = _find_files(folder / "masks")
        problems += misnamed_images + misnamed_masks
        for number in sorted(images | masks):
            image, mask = images.get(number), masks.get(number)
            if image and mask:
                part, bad = _check_pair(tile, number, image, mask, smallest)
                parts += [part] if part else []
                problems += bad
            elif image:
                problems.append(f"{source_name(image)}: its mask is missing")
            elif mask:
                problems.append(f"{source_name(mask)}: its image is missing")
    return parts, problems


def _find_tiles(root: Path) -> tuple[dict[int, Path], list[str]]:
    """Tile number -> folder, and one line per misspelled tile."""
    tiles, problems = {}, []
    for folder in (path for path in _list(root) if path.is_dir()):
        if match := TILE.fullmatch(folder.name):
            tiles[int(match[1])] = folder
        elif folder.name.strip().casefold().startswith("tile"):
            problems.append(
                f"{folder.name}: expected a name like 'Tile 3'; "
                "rename the folder or move it elsewhere"
            )
    return tiles, problems


def _find_files(folder: Path) -> tuple[dict[int, Path], list[str]]:
    """Part number -> file of `images` or `masks` of one tile, and one line per misnamed file.

    Hidden files and Windows' Thumbs.db are ignored.
    """
    if not folder.is_dir():
        return {}, [f"{folder.parent.name}/{folder.name}: this folder is missing"]
    files, problems = {}, []
    suffix = SUFFIXES[folder.name]
    for path in _list(folder):
        match = PART.fullmatch(path.stem)
        if match and path.suffix == suffix:
            files[int(match[1])] = path
        elif not path.name.startswith(".") and path.name != "Thumbs.db":
            problems.append(f"{source_name(path)}: expected a name like image_part_001{suffix}")
    return files, problems


def _check_pair(
    tile: int, number: int, image: Path, mask: Path, smallest: int
) -> tuple[Part | None, list[str]]:
    """The Part of an image and its mask, or None and the problems of the two files."""
    sizes, checksums, problems = [], [], []
    size_of: Callable[[bytes, str], Size]
    for path, size_of in ((image, jpeg_size), (mask, png_size)):
        name = source_name(path)
        try:
            content = read_bytes(path, name)
            sizes.append(size_of(content, name))
            checksums.append(sha256(content).hexdigest())
        except UserError as error:
            problems.append(error.message)
    if problems:
        return None, problems
    (height, width), mask_size = sizes
    if (height, width) != mask_size:
        problem = f"its mask is {mask_size[0]}x{mask_size[1]} px"
        return None, [f"{source_name(image)}: {height}x{width} px, but {problem}"]
    if min(height, width) < smallest:
        problem = f"smaller than one {smallest} px patch; lower --patch-size or remove the part"
        return None, [f"{source_name(image)}: {height}x{width} px, {problem}"]
    return Part(tile, number, image, mask, height, width, (checksums[0], checksums[1])), []


def read_bytes(path: Path, name: str) -> bytes:
    """The content of a file that messages call `name`.

    Raises:
        UserError: The file cannot be read, or is not a regular file. Reading a named pipe would
            never end.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{name}: not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}") from error


def decode(content: bytes, name: str) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 RGB: the pixels of an image file, also of palette, grey and alpha files.

    The pixels are in the order in which the file stores them. An EXIF orientation is ignored, so
    that image and mask have the same rows and columns.

    Args:
        content: The bytes of the file.
        name: What messages call the file.

    Raises:
        UserError: The file is damaged, too large or not an image.
    """
    if content.startswith(_JPEG_START):
        return _decode_jpeg(content, name)
    if content.startswith(_PNG_SIGNATURE):
        png_size(content, name)
    if not content:
        raise UserError(f"{name}: empty file")
    try:
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:
        raise UserError(
            f"{name}: OpenCV cannot decode it; is it damaged or larger than {MAX_PIXELS:,} px?"
        ) from error
    if pixels is None:
        raise UserError(f"{name}: not an image that OpenCV can read, or a damaged one")
    return np.asarray(pixels, np.uint8)


def jpeg_size(content: bytes, name: str) -> Size:
    """Height and width of a JPEG file. UserError unless it is complete from start to end marker."""
    size, _ = _jpeg_header(content, name)
    return size


def png_size(content: bytes, name: str) -> Size:
    """Height and width of a PNG file. UserError unless it has every chunk with its checksum."""
    if not content.startswith(_PNG_SIGNATURE):
        raise UserError(f"{name}: not a PNG file" if content else f"{name}: empty file")
    if len(content) < 33:  # signature and header
        raise UserError(f"{name}: truncated PNG")
    if content[8:16] != _PNG_HEADER:
        raise UserError(f"{name}: damaged PNG: it does not begin with a header")
    view, offset, kind = memoryview(content), 8, b""
    while kind != b"IEND":
        if offset + 12 > len(content):
            raise UserError(f"{name}: truncated PNG")
        length, kind = struct.unpack_from(">I4s", content, offset)
        end = offset + 8 + length
        if end + 4 > len(content):
            raise UserError(f"{name}: truncated PNG")
        if zlib.crc32(view[offset + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise UserError(f"{name}: damaged PNG: wrong checksum at byte {offset}")
        offset = end + 4
    width, height = struct.unpack_from(">II", content, 16)
    _check_size(height, width, name)
    return height, width


def _jpeg_header(content: bytes, name: str) -> tuple[Size, int]:
    """Height and width of a JPEG file, and the offset of its first scan."""
    if not content.startswith(_JPEG_START):
        raise UserError(f"{name}: not a JPEG file" if content else f"{name}: empty file")
    size: Size | None = None
    offset = 2
    while size is None or content[offset + 1] != _JPEG_SCAN:
        if offset + 9 > len(content):
            raise UserError(f"{name}: truncated JPEG")
        if content[offset] != 0xFF:
            raise UserError(f"{name}: damaged JPEG: no marker at byte {offset}")
        marker, length = content[offset + 1], struct.unpack_from(">H", content, offset + 2)[0]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", content, offset + 5)
            size = height, width
        # Any number of bytes 0xFF may stand before a marker.
        offset += 1 if marker == 0xFF else 2 + length
        if offset + 2 > len(content):
            raise UserError(f"{name}: truncated JPEG")
    if content.find(_JPEG_END, offset) < 0:  # within a scan 0xD9 never follows 0xFF
        raise UserError(f"{name}: truncated JPEG")
    _check_size(*size, name)
    return size, offset


def _check_size(height: int, width: int, name: str) -> None:
    """UserError for a size that no decoder accepts."""
    if not 0 < height * width <= MAX_PIXELS:
        raise UserError(
            f"{name}: {height}x{width} px, and an image may have 1 to {MAX_PIXELS:,} px; "
            "cut it into parts"
        )


class _Scan(io.BytesIO):
    """A JPEG file up to its end marker, which knows whether a decoder reads it to the end.

    Its last _MAX_UNREAD bytes and _LOOKAHEAD are handed out in a read separate from the rest. A
    decoder that stops before that read has too much data. One that asks for more has too little.
    libjpeg reports neither: at an end marker it fills the missing pixels.
    """

    def __init__(self, content: bytes, end: int) -> None:
        super().__init__(content[:end] + _LOOKAHEAD)
        self._last_read = end - _MAX_UNREAD

    @property
    def exhausted(self) -> bool:
        """Whether the last bytes were read."""
        return self.tell() > self._last_read

    def read(self, size: int | None = -1) -> bytes:
        left = self._last_read - self.tell()
        if size is None or size < 0 or left <= 0:
            return super().read(size)
        return super().read(min(size, left))


def _decode_jpeg(content: bytes, name: str) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 RGB: the pixels of a JPEG.

    Damage within the data of a scan shifts what follows, so that the decoder needs more or less
    data than the file holds. This is checked for files with a single scan. Progressive files have
    many scans and are decoded only at their end marker: only damage to their markers is found.

    Raises:
        UserError: Pillow cannot decode the file, or its only scan has too much or too little data.
    """
    _, scan = _jpeg_header(content, name)
    single = content.find(bytes((0xFF, _JPEG_SCAN)), scan + 2) < 0
    file = _Scan(content, content.find(_JPEG_END, scan)) if single else io.BytesIO(content)
    try:
        pixels = np.asarray(JpegImagePlugin.JpegImageFile(file).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's errors for damaged files
        raise UserError(f"{name}: damaged JPEG: {error}") from error
    if isinstance(file, _Scan) and not file.exhausted:
        raise UserError(f"{name}: damaged JPEG: its data does not end where its image does")
    return pixels
