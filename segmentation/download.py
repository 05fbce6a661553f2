"""Downloads the Dubai set from Kaggle."""

from pathlib import Path

from segmentation.errors import UserError

DATASET = "humansintheloop/semantic-segmentation-of-aerial-imagery"
"""Name of the data set on Kaggle: 33 MB, licence CC0 1.0."""


def download_dubai_set(raw: Path) -> None:
    """Downloads the Dubai set into the folder `raw`. Needs no Kaggle account.

    Raises:
        UserError: The download failed. The message says how to get the files by hand.
    """
    try:
        import kagglehub  # imported here: it takes a second, which only --download should cost

        kagglehub.dataset_download(DATASET, output_dir=str(raw))
    except Exception as error:  # network, Kaggle or disk: the user's way out is the same
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"could not download the data set: {reason}\n"
            f"Download it by hand from https://www.kaggle.com/datasets/{DATASET}, "
            f"unpack it as {raw}, and run the command without --download."
        ) from error
