"""A small synthetic city, raw and prepared, for the tests of the data preparation."""

import csv
import shutil

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from segmentation import synthetic
from segmentation.prepare import main, prepare
from segmentation.prepared import PrepareOptions

SMALL = PrepareOptions(patch_size=32)


@pytest.fixture(scope="session")
def city(tmp_path_factory):
    """A raw folder of four tiles with parts of about 64 px. Do not change it: see `city_copy`."""
    folder = tmp_path_factory.mktemp("raw") / "city"
    synthetic.write(folder, seed=1, tiles=4, size=64)
    return folder


@pytest.fixture(scope="session")
def city_set(city, tmp_path_factory):
    """The folder of the city's prepared set, made with the options SMALL."""
    out = tmp_path_factory.mktemp("prepared") / "set"
    assert prepare(city, out, SMALL)
    return out


@pytest.fixture
def city_copy(city, tmp_path):
    """A copy of the city, tmp_path / "raw", that a test may damage."""
    return shutil.copytree(city, tmp_path / "raw")


def run_prepare(*arguments):
    """The result of the command `python -m segmentation.prepare` with these arguments."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def read_image(path):
    """(h, w, 3) uint8 RGB."""
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)


def write_image(path, pixels):
    """Writes (h, w, 3) uint8 RGB as a JPEG or PNG file."""
    path.write_bytes(cv2.imencode(path.suffix, pixels[..., ::-1])[1].tobytes())


def read_table(folder):
    """The rows of patches.csv in the folder of a prepared set."""
    with (folder / "patches.csv").open() as file:
        return list(csv.DictReader(file))


def contents(folder):
    """Name -> bytes of the files in a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
