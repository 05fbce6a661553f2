"""Input fields that the schema accepts because clients send them, but that no resolver reads.

Each input field is read by a resolver, or is in IGNORED, or is in REFUSED. A test compares the
schema with these tables.
"""

from graphql import GraphQLInputObjectType, GraphQLInputType, get_named_type

OWNER_IN_ID = "the id in the same input names the owner"
ONE_REGION = "all bytes are in one place"
NO_REQUEST_NAME = "a name for the request; no answer repeats it"
ONE_PIECE = "every file is uploaded in one piece"

IGNORED = {  # accepted and not read -> why nothing is lost
    "AgentHeartbeatInput.metrics": "the load of an agent's machine; nothing shows it",
    "AlertInput.waitDuration": "limits how often mail is sent; this server sends none",
    "ArtifactCollectionAliasInput.entityName": OWNER_IN_ID,
    "ArtifactCollectionAliasInput.projectName": OWNER_IN_ID,
    "ArtifactAliasInput.artifactCollectionName": OWNER_IN_ID,
    "CreateArtifactFileSpecInput.artifactManifestID": OWNER_IN_ID,
    "CreateArtifactFileSpecInput.mimetype": "guessed from the name of the file at download",
    "CreateArtifactFileSpecInput.uploadPartsInput": ONE_PIECE,
    "CreateArtifactFilesInput.clientMutationId": NO_REQUEST_NAME,
    "CreateArtifactFilesInput.cloudRegionID": ONE_REGION,
    "CreateArtifactFilesInput.storageLayout": "layouts differ only in addresses; links have these",
    "CreateArtifactFilesInput.storageRegion": ONE_REGION,
    "CreateArtifactInput.clientMutationId": NO_REQUEST_NAME,
    "CreateArtifactInput.enableDigestDeduplication": "equal contents are always one version",
    "CreateArtifactInput.storageRegion": ONE_REGION,
    "CreateArtifactInput.ttlIsInherited": "nothing sets a time to live that could be inherited",
    "CreateArtifactManifestInput.entityName": OWNER_IN_ID,
    "CreateArtifactManifestInput.name": "the file of a manifest always has the same name",
    "CreateArtifactManifestInput.projectName": OWNER_IN_ID,
    "CreateArtifactManifestInput.runName": OWNER_IN_ID,
    "AddAliasesInput.clientMutationId": NO_REQUEST_NAME,
    "DeleteAliasesInput.clientMutationId": NO_REQUEST_NAME,
    "DeleteArtifactInput.clientMutationId": NO_REQUEST_NAME,
    "UpdateArtifactInput.clientMutationId": NO_REQUEST_NAME,
    "UseArtifactInput.clientMutationId": NO_REQUEST_NAME,
    "DeleteFilesInput.projectId": OWNER_IN_ID,
    "DeleteViewInput.deleteDrafts": "there are no drafts",
    "UploadPartsInput.hexMD5": ONE_PIECE,
    "UploadPartsInput.partNumber": ONE_PIECE,
    "UpsertBucketInput.debug": "a note of the client for itself",
    "UpsertBucketInput.jobRepo": "the run's file wandb-metadata.json has it",
    "UpsertModelInput.access": "everybody with the key sees every project",
    "UpsertViewInput.createdUsing": "a report is the same, whatever program wrote it",
    "UseArtifactInput.artifactEntityName": OWNER_IN_ID,
    "UseArtifactInput.artifactProjectName": OWNER_IN_ID,
    "UseArtifactInput.usedAs": "a label that no client shows",
}

MD5_ONLY = (("MANIFEST_MD5",), "checksums are MD5")
KEPT_UNTIL_DELETED = ((-1, -2), "versions are kept until somebody deletes them")
NO_LAUNCH = (("{}", "null"), "launch queues are not served: start `wandb agent`")

REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    # field -> (values that are accepted, since they change nothing; why all others are refused)
    "CreateArtifactInput.digestAlgorithm": MD5_ONLY,
    "CreateArtifactFilesInput.digestAlgorithm": MD5_ONLY,
    "CreateArtifactInput.distributedID": (
        (),
        "distributed artifacts are not served: log one artifact per process",
    ),
    "CreateArtifactInput.labels": (("{}",), "labels are not kept: use metadata"),
    "CreateArtifactInput.ttlDurationSeconds": KEPT_UNTIL_DELETED,
    "UpdateArtifactInput.ttlDurationSeconds": KEPT_UNTIL_DELETED,
    "TagInput.attributes": ((), "a tag is only a name"),
    "UpsertSweepInput.launchScheduler": NO_LAUNCH,
    "UpsertSweepInput.templateVariableValues": NO_LAUNCH,
}


class NotServedError(ValueError):
    """A client has used an input that loopback does not serve."""


def check(kind: GraphQLInputType, value: object) -> None:
    """Raises NotServedError if `value`, an input of type `kind`, sets a REFUSED field."""
    named = get_named_type(kind)
    if isinstance(value, list):
        for item in value:
            check(kind, item)
    elif isinstance(named, GraphQLInputObjectType) and isinstance(value, dict):
        for name, item in value.items():
            field = f"{named.name}.{name}"
            accepted, reason = REFUSED.get(field, ((item,), ""))
            if item is not None and item not in accepted:
                raise NotServedError(f"loopback does not serve {field}: {reason}")
            check(named.fields[name].type, item)
