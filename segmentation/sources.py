"""A raw folder -> its checked pairs of image and mask, and the pixels of an image file.

`find_parts` reads sizes, truncation and damage from the files' structure, without decoding: the whole real set
takes 0.1 s, so that all bad files are known before anything is written. `decode` finds what only decoding can
find: OpenCV fills the rest of a damaged JPEG in grey and reports nothing.
"""

import io
import re
import struct
import zlib
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
from PIL import JpegImagePlugin

from segmentation.errors import UserError

TILE = re.compile(r"Tile ([1-9][0-9]*)")
PART = re.compile(r"image_part_([0-9]{3})")
KINDS = {"images": ".jpg", "masks": ".png"}
"""Folder of a tile -> the ending of its files."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER = struct.pack(">I4s", 13, b"IHDR")
_JPEG, _END = b"\xff\xd8", b"\xff\xd9"
_FRAMES = set(range(0xC0, 0xD0)) - {
    0xC4,
    0xC8,
    0xCC,
}  # JPEG markers that start a frame and so hold its size (ITU T.81, table B.1)
_SCAN = 0xDA

MAX_PIXELS = 2**30
"""Pixels of the largest image that OpenCV decodes."""

_SPARE = 64
"""Bytes that may be left over at the end of a JPEG's scan: some encoders pad."""

_LOOKAHEAD = bytes(16)
"""What libjpeg may read, but not use, beyond a scan's last byte: it fills a register of 8 bytes."""


@dataclass(frozen=True)
class Part:
    """One image of `height` x `width` px and its mask."""

    tile: int
    part: int
    image: Path
    mask: Path
    height: int
    width: int
    checksums: tuple[str, str]
    """SHA-256 of the image's and the mask's bytes."""

    def __str__(self) -> str:
        return f"Tile {self.tile} part {self.part}"


def find_root(raw: Path) -> Path:
    """The folder that holds the `Tile N` folders: `raw` itself or a folder in it, as in the published archive."""
    for root in (raw, *(path for path in _listed(raw) if path.is_dir())):
        if any(path.is_dir() and TILE.fullmatch(path.name) for path in _listed(root)):
            return root
    raise UserError(
        f"{raw} holds no folder named 'Tile 1', 'Tile 2', ...; name the folder that does, or use --download"
    )


def _listed(folder: Path) -> list[Path]:
    """What a folder holds, sorted. UserError where it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from error


def find_parts(root: Path, smallest: int) -> tuple[list[Part], list[str]]:
    """Every good pair, sorted by tile and part; and a line for every file that is missing, unreadable, truncated, of
    another size than its partner, or less than `smallest` px high or wide, and for every folder whose name is almost
    that of a tile."""
    parts, problems, tiles = [], [], {}
    for folder in (path for path in _listed(root) if path.is_dir()):
        if match := TILE.fullmatch(folder.name):
            tiles[int(match[1])] = folder
        elif folder.name.strip().casefold().startswith("tile"):
            problems.append(
                f"{folder.name}: expected a name like 'Tile 3'; rename the folder or move it elsewhere"
            )
    for tile, folder in sorted(tiles.items()):
        images, masks = (_numbered(folder / kind, root, problems) for kind in KINDS)
        for number in sorted(images | masks):
            image, mask = images.get(number), masks.get(number)
            if not (image and mask):
                problems.append(
                    f"{(image or mask).relative_to(root)}: its {'mask' if image else 'image'} is missing"
                )
            elif part := _checked(root, tile, number, image, mask, smallest, problems):
                parts.append(part)
    return parts, problems


def _numbered(folder: Path, root: Path, problems: list[str]) -> dict[int, Path]:
    """Part number -> file, for the files of one folder; hidden files are passed over, other names are a problem."""
    if not folder.is_dir():
        problems.append(f"{folder.relative_to(root)}: this folder is missing")
        return {}
    found = {}
    for path in _listed(folder):
        match = PART.fullmatch(path.stem)
        if match and path.suffix == KINDS[folder.name]:
            found[int(match[1])] = path
        elif not path.name.startswith(".") and path.name != "Thumbs.db":
            problems.append(
                f"{path.relative_to(root)}: expected a name like image_part_001{KINDS[folder.name]}"
            )
    return found


def _checked(
    root: Path, tile: int, number: int, image: Path, mask: Path, smallest: int, problems: list[str]
) -> Part | None:
    """The pair as a Part, or None and lines in `problems`."""
    sizes, checksums = [], []
    for path, size_of in ((image, jpeg_size), (mask, png_size)):
        name = str(path.relative_to(root))
        try:
            content = read_bytes(path, name)
            sizes.append(size_of(content, name))
            checksums.append(sha256(content).hexdigest())
        except UserError as error:
            problems.append(error.message)
    if len(sizes) < 2:
        return None
    (height, width), mask_size = sizes
    if (height, width) != mask_size:
        words = f"{height}x{width} px, but its mask is {mask_size[0]}x{mask_size[1]} px"
    elif min(height, width) < smallest:
        words = f"{height}x{width} px, smaller than one {smallest} px patch; lower --patch-size or remove the part"
    else:
        return Part(tile, number, image, mask, height, width, (checksums[0], checksums[1]))
    problems.append(f"{image.relative_to(root)}: {words}")
    return None


def read_bytes(path: Path, name: str) -> bytes:
    """The content of a file that messages call `name`.

    Raises UserError where it cannot be read. A named pipe is refused, because reading it would never end.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{name}: not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}") from error


def decode(content: bytes, name: str) -> np.ndarray:
    """(h, w, 3) uint8 RGB of an image file's content; palette, grey and alpha files come out as RGB too.

    The pixels are those that the file stores. An EXIF orientation is ignored, so that a mask fits the file's rows and
    columns. UserError, which calls the file `name`, where it is damaged, too large or not an image.
    """
    if content.startswith(_JPEG):
        return _decode_jpeg(content, name)
    if content.startswith(_PNG):
        png_size(content, name)
    try:
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    except cv2.error as error:
        raise UserError(
            f"{name}: OpenCV cannot decode it; is it damaged or larger than {MAX_PIXELS:,} px?"
        ) from error
    if pixels is None:
        raise UserError(
            f"{name}: not an image that OpenCV can read, or a damaged one"
            if content
            else f"{name}: empty file"
        )
    return pixels


def jpeg_size(content: bytes, name: str) -> tuple[int, int]:
    """Height and width of a JPEG file that is whole from its first marker to its last."""
    height, width, _ = _jpeg_header(content, name)
    return height, width


def png_size(content: bytes, name: str) -> tuple[int, int]:
    """Height and width of a PNG file whose every chunk is there and has its right checksum."""
    if not content.startswith(_PNG):
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
    return _possible(height, width, name)


def _jpeg_header(content: bytes, name: str) -> tuple[int, int, int]:
    """Height and width of a JPEG file, and the place of its first scan."""
    if not content.startswith(_JPEG):
        raise UserError(f"{name}: not a JPEG file" if content else f"{name}: empty file")
    size, offset = None, 2
    while size is None or content[offset + 1] != _SCAN:
        if offset + 9 > len(content):
            raise UserError(f"{name}: truncated JPEG")
        if content[offset] != 0xFF:
            raise UserError(f"{name}: damaged JPEG: no marker at byte {offset}")
        marker, length = content[offset + 1], struct.unpack_from(">H", content, offset + 2)[0]
        if marker in _FRAMES:
            size = struct.unpack_from(">HH", content, offset + 5)
        offset += (
            2 + length if marker != 0xFF else 1
        )  # any number of 0xFF may fill the space before a marker
        if offset + 2 > len(content):
            raise UserError(f"{name}: truncated JPEG")
    if content.find(_END, offset) < 0:  # in a scan's data 0xFF is never followed by 0xD9
        raise UserError(f"{name}: truncated JPEG")
    return *_possible(*size, name), offset


def _possible(height: int, width: int, name: str) -> tuple[int, int]:
    """The size again. UserError for one that no decoder takes."""
    if not 0 < height * width <= MAX_PIXELS:
        raise UserError(
            f"{name}: {height}x{width} px, and an image may have 1 to {MAX_PIXELS:,} px; cut it into parts"
        )
    return height, width


class _Scan(io.BytesIO):
    """A JPEG file up to its end marker, whose last _SPARE bytes and _LOOKAHEAD are read apart from the rest.

    A decoder that stops before it has read them was given too much data. One that asks for more has too little.
    libjpeg itself reports neither: at an end marker it makes up what is missing.
    """

    def __init__(self, content: bytes, end: int) -> None:
        super().__init__(content[:end] + _LOOKAHEAD)
        self._last = end - _SPARE

    @property
    def exhausted(self) -> bool:
        """Whether the last bytes were read."""
        return self.tell() > self._last

    def read(self, size: int = -1) -> bytes:
        left = self._last - self.tell()
        return super().read(min(size, left) if size >= 0 and left > 0 else size)


def _decode_jpeg(content: bytes, name: str) -> np.ndarray:
    """The pixels of a JPEG. UserError where a file with a single scan holds more or less data than its size needs.

    Damage within the data shifts what follows, so that the decoder needs more or less of it. Progressive files have
    many scans and are decoded only at their end marker: in them only damage to the markers is found.
    """
    *_, scan = _jpeg_header(content, name)
    single = content.find(b"\xff\xda", scan + 2) < 0
    file = _Scan(content, content.find(_END, scan)) if single else io.BytesIO(content)
    try:
        pixels = np.asarray(JpegImagePlugin.JpegImageFile(file).convert("RGB"))
    except (
        OSError,
        SyntaxError,
        ValueError,
    ) as error:  # the three of Pillow for a file that it cannot decode
        raise UserError(f"{name}: damaged JPEG: {error}") from error
    if single and not file.exhausted:
        raise UserError(f"{name}: damaged JPEG: its data does not end where its image does")
    return pixels
