"""A raw folder -> its checked pairs of image and mask. Standard library only.

Sizes, truncation and damage are read off the files' own structure, without decoding: the whole real set takes 0.1 s, so that
bad files are known, all of them, before anything is written. OpenCV would not tell: it fills a truncated file's rest in grey.
"""

import re
import struct
import zlib
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

TILE = re.compile(r"Tile ([1-9]\d*)")
PART = re.compile(r"image_part_(\d{3})")
KINDS = {"images": ".jpg", "masks": ".png"}
"""Folder of a tile -> the ending of its files."""

_PNG = b"\x89PNG\r\n\x1a\n"
_FRAMES = set(range(0xC0, 0xD0)) - {
    0xC4,
    0xC8,
    0xCC,
}  # JPEG markers that start a frame and so hold its size (ITU T.81, table B.1)
_SCAN = 0xDA


class BadFileError(ValueError):
    """A file that cannot be used."""


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
    for root in (raw, *sorted(path for path in raw.iterdir() if path.is_dir())):
        if any(path.is_dir() and TILE.fullmatch(path.name) for path in root.iterdir()):
            return root
    raise ValueError(f"{raw} holds no folder named 'Tile 1', 'Tile 2', ...; name the folder that does, or use --download")


def find_parts(root: Path, smallest: int) -> tuple[list[Part], list[str]]:
    """Every good pair, sorted by tile and part; and a line for every file that is missing, unreadable, truncated, of
    another size than its partner, or less than `smallest` px high or wide."""
    parts, problems = [], []
    tiles = {int(match[1]): path for path in root.iterdir() if (match := TILE.fullmatch(path.name)) and path.is_dir()}
    for tile, folder in sorted(tiles.items()):
        images, masks = (_numbered(folder / kind, root, problems) for kind in KINDS)
        for number in sorted(images | masks):
            image, mask = images.get(number), masks.get(number)
            if not (image and mask):
                problems.append(f"{(image or mask).relative_to(root)}: its {'mask' if image else 'image'} is missing")
            elif part := _checked(root, tile, number, image, mask, smallest, problems):
                parts.append(part)
    return parts, problems


def _numbered(folder: Path, root: Path, problems: list[str]) -> dict[int, Path]:
    """Part number -> file, for the files of one folder; hidden files are passed over, other names are a problem."""
    if not folder.is_dir():
        problems.append(f"{folder.relative_to(root)}: this folder is missing")
        return {}
    found = {}
    for path in sorted(folder.iterdir()):
        match = PART.fullmatch(path.stem)
        if match and path.suffix == KINDS[folder.name]:
            found[int(match[1])] = path
        elif not path.name.startswith(".") and path.name != "Thumbs.db":
            problems.append(f"{path.relative_to(root)}: expected a name like image_part_001{KINDS[folder.name]}")
    return found


def _checked(root: Path, tile: int, number: int, image: Path, mask: Path, smallest: int, problems: list[str]) -> Part | None:
    """The pair as a Part, or None and lines in `problems`."""
    sizes, checksums = [], []
    for path, size_of in ((image, jpeg_size), (mask, png_size)):
        try:
            content = path.read_bytes()
            sizes.append(size_of(content))
            checksums.append(sha256(content).hexdigest())
        except (OSError, BadFileError) as error:
            problems.append(f"{path.relative_to(root)}: {getattr(error, 'strerror', None) or error}")
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


def jpeg_size(content: bytes) -> tuple[int, int]:
    """Height and width of a JPEG file that is whole from its first marker to its last."""
    if content[:2] != b"\xff\xd8":
        raise BadFileError("not a JPEG file" if content else "empty file")
    size, offset = None, 2
    while size is None or content[offset + 1] != _SCAN:
        if offset + 9 > len(content):
            raise BadFileError("truncated JPEG")
        if content[offset] != 0xFF:
            raise BadFileError(f"damaged JPEG: no marker at byte {offset}")
        marker, length = content[offset + 1], struct.unpack_from(">H", content, offset + 2)[0]
        if marker in _FRAMES:
            size = struct.unpack_from(">HH", content, offset + 5)
        offset += 2 + length if marker != 0xFF else 1  # any number of 0xFF may fill the space before a marker
        if offset + 2 > len(content):
            raise BadFileError("truncated JPEG")
    if content.find(b"\xff\xd9", offset) < 0:  # in a scan's data 0xFF is never followed by 0xD9
        raise BadFileError("truncated JPEG")
    return size


def png_size(content: bytes) -> tuple[int, int]:
    """Height and width of a PNG file whose every chunk is there and has its right checksum."""
    if content[:8] != _PNG:
        raise BadFileError("not a PNG file" if content else "empty file")
    view, offset, kind = memoryview(content), 8, b""
    while kind != b"IEND":
        if offset + 12 > len(content):
            raise BadFileError("truncated PNG")
        length, kind = struct.unpack_from(">I4s", content, offset)
        end = offset + 8 + length
        if end + 4 > len(content):
            raise BadFileError("truncated PNG")
        if zlib.crc32(view[offset + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise BadFileError(f"damaged PNG: wrong checksum at byte {offset}")
        offset = end + 4
    width, height = struct.unpack_from(">II", content, 16)
    return height, width
