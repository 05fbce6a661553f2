"""Reference lines for scores: a linear classifier, and the agreement of two annotators.

python -m analysis.references data/dubai --data data/prepared --train 4,7,8
"""

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from analysis import annotators, linear, scores
from analysis.cli import FOLDER, data_option
from analysis.evaluations import Place, evaluate
from analysis.scores import Score
from segmentation.errors import UserError
from segmentation.prepared import PreparedSet


@click.command(context_settings={"max_content_width": 120})
@click.argument("raw", type=click.Path(file_okay=False, path_type=Path))
@data_option
@click.option(
    "--train", help="Tiles that train the classifier. Default: the training split of the set."
)
@click.option(
    "--tiles", help="Tiles to score. Default: all that show other ground than the training tiles."
)
@click.option("--out", "folder", type=FOLDER, help="Also write references.json, .csv and .md here.")
def main(raw: Path, data: Path, train: str | None, tiles: str | None, folder: Path | None) -> None:
    """Score a linear classifier, and compare the two annotations of the same ground.

    The classifier sees colour and texture of single pixels. It is trained on --train, and again for
    each place on all other places of the set. Both are scored as `analysis.evaluate` scores models.
    The two annotations are the masks of tiles in RAW whose images overlap; the first one counts as
    the truth.
    """
    if not raw.is_dir():
        raise UserError(f"{raw} does not exist; name the folder of the raw tiles")
    prepared = PreparedSet.open(data)
    everything = [tile for place in prepared.places for tile in place]
    training = scores.tile_numbers(train) or prepared.tiles[prepared.indices("train")].tolist()
    prepared.indices_of(training)  # raises for unknown tiles
    ground = {tile for place in prepared.places if set(place) & set(training) for tile in place}
    chosen = scores.tile_numbers(tiles) or sorted(set(everything) - ground)
    prepared.indices_of(chosen)
    if not chosen or ground & set(chosen):
        raise UserError(
            f"the tiles to score share ground with the training tiles {_list(ground)}; "
            "name others with --train or --tiles"
        )
    rows = [
        *linear_scores(prepared, training, chosen),
        *left_out_scores(prepared, chosen),
        *annotator_scores(raw),
    ]
    scores.show(rows, f"Reference lines on {data}", folder, "references")


def linear_scores(
    prepared: PreparedSet, training: Sequence[int], tiles: Sequence[int]
) -> list[Score]:
    """Scores on `tiles`, per place and pooled, of the classifier trained on `training`."""
    confusions = evaluate([linear.train(prepared, training)], prepared, tiles)
    return list(scores.per_place(f"colour and texture, trained on {_list(training)}", confusions))


def left_out_scores(prepared: PreparedSet, tiles: Sequence[int]) -> list[Score]:
    """Scores on `tiles`, where each place is scored by a classifier trained on all other places.

    Empty if the set has one place only.
    """
    confusions: dict[Place, NDArray[np.int64]] = {}
    for place in prepared.places:
        others = [tile for other in prepared.places if other != place for tile in other]
        if scored := sorted(set(place) & set(tiles)):
            if not others:
                return []
            confusions |= evaluate([linear.train(prepared, others)], prepared, scored)
    return list(scores.per_place("colour and texture, trained on all other places", confusions))


def annotator_scores(raw: Path) -> list[Score]:
    """The agreement of annotators per pair of tiles, and pooled; empty if no tiles overlap.

    Prints one line per pair, with the size of its overlap.
    """
    confusions: dict[Place, NDArray[np.int64]] = {}
    for found in annotators.find(raw):
        click.echo(
            f"tiles {_list(found.tiles)} overlap on {found.height} x {found.width} px "
            f"(correlation of brightness {found.correlation:.3f}, identical pixels "
            f"{found.identical:.2%})"
        )
        confusions[found.tiles] = found.confusion
    return list(scores.per_place("second annotation", confusions))


def _list(tiles: Sequence[int] | set[int]) -> str:
    return ", ".join(map(str, sorted(set(tiles))))


if __name__ == "__main__":
    main()
