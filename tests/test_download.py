"""The download from Kaggle."""

import sys

from prepare_helpers import run_prepare


def test_a_failed_download_says_how_to_get_the_files_by_hand(tmp_path, monkeypatch):
    class NoKaggle:
        @staticmethod
        def dataset_download(handle, output_dir):
            raise ConnectionError("no route to host")

    monkeypatch.setitem(sys.modules, "kagglehub", NoKaggle)
    result = run_prepare(tmp_path / "raw", tmp_path / "set", "--download")
    assert (
        result.exit_code == 1
        and "could not download the data set: no route to host" in result.output
    )
    assert (
        "kaggle.com/datasets/humansintheloop" in result.output and "Traceback" not in result.output
    )
