"""Artifacts through the unmodified client: single files, old versions that are deleted, what is refused."""

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
    """Names of the stored contents."""
    return {path.name for path in (served.folder / "objects").glob("*/*")}


def checksum(text):
    return hashlib.md5(text.encode() * 1000).hexdigest()  # noqa: S324  as W&B does


def test_one_file_is_downloaded(served, api, tmp_path, monkeypatch):
    """With empty caches, so that nothing but the server can give the bytes."""
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


def test_deleted_versions_free_the_disk(served, api, tmp_path):
    """What another version holds as well stays."""
    served.python(LOG, tmp_path, "often", "kept+first", "kept+second", "kept+third")
    for version in ("v0", "v1"):
        api.artifact(f"loopback/art/often:{version}").delete(delete_aliases=True)
    assert checksum("first") not in objects(served)
    assert checksum("second") not in objects(served)
    assert {checksum("kept"), checksum("third")} <= objects(served)
    (left,) = api.artifacts("model", "loopback/art/often")
    assert sorted(
        path.name for path in (tmp_path / left.download(str(tmp_path / "down")) / "deep").iterdir()
    ) == [
        "kept of 100%.bin",
        "third of 100%.bin",
    ]
    served.python(
        LOG, tmp_path, "often", "kept+first"
    )  # contents of a deleted version may come again
    assert checksum("first") in objects(served)
    assert api.artifact("loopback/art/often:latest").version == "v3"


def test_aliases_protect_a_version(served, api, tmp_path):
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
