"""The classes, their colours, and the conversion between the two."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from segmentation import labels
from segmentation.errors import UserError
from segmentation.labels import CLASSES, COLORS, IGNORE, NUM_CLASSES, VALUES, count, decode, encode

masks = arrays(
    np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from(VALUES)
)
channels = st.sampled_from(sorted({0, 1, 255, *COLORS.ravel().tolist()}))
color_masks = arrays(
    np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(3)), elements=channels
)


def test_classes_are_the_published_ones():
    assert CLASSES == ("Building", "Land", "Road", "Vegetation", "Water", "Unlabeled")
    assert [bytes(color).hex().upper() for color in COLORS] == [
        "3C1098",
        "8429F6",
        "6EC1E4",
        "FEDD3A",
        "E2A929",
        "9B9B9B",
    ]
    assert (NUM_CLASSES, labels.UNLABELED, IGNORE) == (6, 5, 255)


@given(masks)
def test_encode_inverts_decode(mask):
    np.testing.assert_array_equal(encode(decode(mask)), mask)


@given(masks)
def test_decode_inverts_encode(mask):
    color_mask = decode(mask)
    np.testing.assert_array_equal(decode(encode(color_mask)), color_mask)


@given(color_masks)
def test_encode_agrees_with_six_comparisons(color_mask):
    truth = np.full(color_mask.shape[:2], IGNORE, np.uint8)
    for index, color in enumerate(COLORS):
        truth[np.all(color_mask == color, axis=-1)] = index
    np.testing.assert_array_equal(encode(color_mask, on_unknown="ignore"), truth)
    known = (truth != IGNORE) | ~color_mask.any(axis=-1)
    if known.all():
        np.testing.assert_array_equal(encode(color_mask), truth)
    else:
        with pytest.raises(UserError):
            encode(color_mask)


def test_black_is_ignore_and_ignore_is_black():
    assert (encode(np.zeros((2, 3, 3), np.uint8)) == IGNORE).all()
    assert not decode(np.full((2, 3), IGNORE, np.uint8)).any()


def test_the_error_for_unknown_colors_names_file_color_count_and_first_pixel():
    color_mask = decode(np.zeros((5, 7), np.uint8))
    color_mask[2, 4] = color_mask[3, 1] = (1, 2, 0xFE)
    color_mask[4, 6] = (9, 9, 9)
    with pytest.raises(UserError) as error:
        encode(color_mask, "Tile 1/masks/image_part_001.png")
    words = str(error.value)
    assert words.startswith(
        "Tile 1/masks/image_part_001.png: unknown colour #0102FE on 2 px, first at row 2, column 4"
    )
    assert "#090909 on 1 px, first at row 4, column 6" in words
    ignored = encode(color_mask, on_unknown="ignore")
    assert (ignored == IGNORE).sum() == 3 and (ignored == 0).sum() == 32


@given(masks, st.randoms(use_true_random=False))
def test_palette_masks_give_the_same_labels_as_rgb_masks(mask, random):
    order = list(range(NUM_CLASSES + 1))
    random.shuffle(order)
    colors = np.append(COLORS, np.zeros((1, 3), np.uint8), axis=0)[order]
    index = {VALUES[value]: place for place, value in enumerate(order)}
    picture = Image.fromarray(np.vectorize(index.get, otypes=[np.uint8])(mask), mode="P")
    picture.putpalette(colors.tobytes())
    file = io.BytesIO()
    picture.save(file, format="PNG")
    decoded = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(encode(decoded), encode(decode(mask)))


@given(masks)
def test_count_counts_every_pixel_once(mask):
    np.testing.assert_array_equal(count(mask), [np.sum(mask == value) for value in VALUES])
    assert count(mask).sum() == mask.size
