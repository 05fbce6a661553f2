"""Evaluates models on any tiles of a prepared set: scores per place, and pooled over places.

python -m analysis.evaluate results/demo --data data/prepared --tiles 1,3,5
"""

from collections.abc import Sequence
from pathlib import Path

import click

from analysis import scores, trained
from analysis.cli import (
    FOLDER,
    checkpoints_option,
    data_option,
    role_option,
    symmetries_option,
)
from analysis.evaluations import evaluate
from segmentation import splits
from segmentation.errors import UserError
from segmentation.prepared import PreparedSet

CACHE = Path("results")
"""Folder whose `cache` keeps what is fetched from W&B, without --out."""


@click.command(context_settings={"max_content_width": 120})
@click.argument("weight_sources", nargs=-1, required=True, metavar="WEIGHTS...")
@data_option
@click.option("--tiles", help="Tiles to evaluate, for example 1,3,5. Default: those of --split.")
@click.option(
    "--split",
    type=click.Choice(splits.SPLITS),
    help="Evaluate the tiles of this split. Default: val.",
)
@symmetries_option
@click.option(
    "--overlap",
    is_flag=True,
    help="Predict whole mosaics with overlapping windows. Needs a set made with --mosaics. Scores "
    "every pixel of the mosaics once: compare only with other rows made with --overlap.",
)
@click.option("--out", "folder", type=FOLDER, help="Also write scores.json, .csv and .md here.")
@checkpoints_option
@role_option
def main(
    weight_sources: tuple[str, ...],
    data: Path,
    tiles: str | None,
    split: str | None,
    symmetries: bool,
    overlap: bool,
    folder: Path | None,
    checkpoints: Path,
    kind: str,
) -> None:
    """Evaluate one model, or the mean of several, on tiles of a prepared set.

    WEIGHTS are what `analysis.predict --weights` takes: a results folder, a .keras file, runs/ID,
    entity/project/run_id or entity/project/model:v0. Of several models the probabilities are
    averaged. Tiles that show the same ground make one place. The last row pools all places: their
    confusion matrices are added, and each score is computed once.
    """
    if tiles and split:
        raise UserError("--tiles and --split both name tiles; leave one of them out")
    numbers = scores.tile_numbers(tiles)
    prepared = PreparedSet.open(data)
    if numbers is None and prepared.manifest["leaks"]:
        raise UserError(
            f"the patches of {data} were split at random, so its splits are no lists of tiles; "
            "name tiles with --tiles"
        )
    chosen = numbers or prepared.tiles[prepared.indices(split or "val")].tolist()
    prepared.indices_of(chosen)  # raises for unknown tiles before a model is opened
    found = [trained.find(name, kind, folder or CACHE, checkpoints) for name in weight_sources]
    for entry in found:
        _warn_of_leaks(entry, prepared, chosen)
    models, size = trained.open_models(found, None if overlap else prepared.patch_size)
    confusions = evaluate(models, prepared, chosen, symmetries, overlap, size)
    how = [" + ".join(weight_sources)]
    how += ["8 symmetries"] * symmetries + ["overlapping windows"] * overlap
    rows = list(scores.per_place(", ".join(how), confusions))
    scores.show(rows, f"Scores on {data}", folder, "scores")


def _warn_of_leaks(found: trained.Weights, prepared: PreparedSet, tiles: Sequence[int]) -> None:
    """Prints a warning if the model was trained on the ground of evaluated tiles."""
    known = found.training_tiles(prepared)
    ground = splits.groups(sorted({*tiles, *known}))
    leaks = sorted({t for place in ground if set(place) & set(known) for t in place} & set(tiles))
    if leaks:
        click.echo(
            f"Warning: {found.file} was trained on the ground of tiles "
            f"{', '.join(map(str, leaks))}: these scores are too good",
            err=True,
        )


if __name__ == "__main__":
    main()
