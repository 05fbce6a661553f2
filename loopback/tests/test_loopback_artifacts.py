"""Artifacts with the unmodified client: download of single files, and deletion of versions."""

import hashlib

import pytest

LOG = """
    import sys
    from pathlib import Path
    import wandb

    with wandb.init(project="art") as run:
        for text in sys.argv[2:]:
            artifact = wandb.Artifact(sys.argv[1], "model")
            for name in text.split("+"):
                Path("file").write_bytes(name.encode() * 1000)
                artifact.add_file("file", f"deep/{name} of 100%.bin")
            run.log_artifact(artifact).wait()
"""


def objects(served):
    """Names of the files with stored bytes: their MD5 in hexadecimal."""
    return {path.name for path in (served.folder / "objects").glob("*/*")}


def checksum(text):
    return hashlib.md5(text.encode() * 1000).hexdigest()  # noqa: S324  as W&B does


def test_a_single_file_is_downloaded_without_caches(served, api, tmp_path, monkeypatch):
    """The caches of the client are empty, so the bytes can only come from the server."""
    served.python(LOG, tmp_path, "single", "one", "one+two")
    fresh = {
        name: str(tmp_path / name)
        for name in ("WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR", "WANDB_DATA_DIR")
    }
    done = served.python(
        """
        from pathlib import Path
        import wandb

        one, both = (wandb.Api().artifact(f"loopback/art/single:v{n}") for n in (0, 1))
        print(Path(both.get_entry("deep/two of 100%.bin").download(root="a")).read_bytes()[:4])
        print(Path(one.file(root="b")).read_bytes()[:4])
        """,
        tmp_path,
        **fresh,
    )
    assert done.stdout.splitlines() == ["b'twot'", "b'oneo'"]


def test_deleting_versions_frees_the_bytes_that_no_other_version_has(served, api, tmp_path):
    served.python(LOG, tmp_path, "often", "kept+first", "kept+second", "kept+third")
    for version in ("v0", "v1"):
        api.artifact(f"loopback/art/often:{version}").delete(delete_aliases=True)
    assert checksum("first") not in objects(served)
    assert checksum("second") not in objects(served)
    assert {checksum("kept"), checksum("third")} <= objects(served)
    (left,) = api.artifacts("model", "loopback/art/often")
    folder = tmp_path / left.download(str(tmp_path / "down")) / "deep"
    names = ["kept of 100%.bin", "third of 100%.bin"]
    assert sorted(path.name for path in folder.iterdir()) == names
    # The contents of a deleted version can be logged again.
    served.python(LOG, tmp_path, "often", "kept+first")
    assert checksum("first") in objects(served)
    assert api.artifact("loopback/art/often:latest").version == "v3"


def test_a_version_with_an_alias_is_not_deleted(served, api, tmp_path):
    served.python(LOG, tmp_path, "held", "held")
    with pytest.raises(Exception, match="alias"):
        api.artifact("loopback/art/held:latest").delete()
    assert checksum("held") in objects(served)


def test_a_run_is_deleted_with_its_artifacts(served, api, tmp_path):
    served.python(LOG, tmp_path, "with-run", "gone")
    run = api.artifact("loopback/art/with-run:latest").logged_by()
    run.delete(delete_artifacts=True)
    assert checksum("gone") not in objects(served)
    assert not api.artifact_exists("loopback/art/with-run:latest")
