"""Fields of inputs that the schema accepts because clients send them, and that nothing here reads.

A test walks the schema: each field is read by a resolver, or it is in one of these two tables.
"""

from graphql import GraphQLInputObjectType, get_named_type

ID_SAYS_IT = "the id in the same input names the owner"
ONE_REGION = "there is one place where bytes are kept"

IGNORED = {  # accepted and not read, because nothing is lost by it
    "AgentHeartbeatInput.metrics": "the load of an agent's machine; nothing shows it",
    "AlertInput.waitDuration": "limits how often mail is sent; every alert is kept, and none is mailed",
    "ArtifactCollectionAliasInput.entityName": ID_SAYS_IT,
    "ArtifactCollectionAliasInput.projectName": ID_SAYS_IT,
    "ArtifactAliasInput.artifactCollectionName": ID_SAYS_IT,
    "CreateArtifactFileSpecInput.artifactManifestID": ID_SAYS_IT,
    "CreateArtifactFileSpecInput.mimetype": "guessed from the name of the file at download",
    "CreateArtifactFileSpecInput.uploadPartsInput": "every file is uploaded in one piece",
    "CreateArtifactFilesInput.clientMutationId": "a name for the request, which nobody asks back",
    "CreateArtifactFilesInput.cloudRegionID": ONE_REGION,
    "CreateArtifactFilesInput.storageLayout": "the layouts differ in addresses only, and links hold these",
    "CreateArtifactFilesInput.storageRegion": ONE_REGION,
    "CreateArtifactInput.clientMutationId": "a name for the request, which nobody asks back",
    "CreateArtifactInput.enableDigestDeduplication": "equal contents are always one version",
    "CreateArtifactInput.storageRegion": ONE_REGION,
    "CreateArtifactInput.ttlIsInherited": "nothing sets a time to live that could be inherited",
    "CreateArtifactManifestInput.entityName": ID_SAYS_IT,
    "CreateArtifactManifestInput.name": "the file of a manifest has one name",
    "CreateArtifactManifestInput.projectName": ID_SAYS_IT,
    "CreateArtifactManifestInput.runName": ID_SAYS_IT,
    "AddAliasesInput.clientMutationId": "a name for the request, which nobody asks back",
    "DeleteAliasesInput.clientMutationId": "a name for the request, which nobody asks back",
    "DeleteArtifactInput.clientMutationId": "a name for the request, which nobody asks back",
    "UpdateArtifactInput.clientMutationId": "a name for the request, which nobody asks back",
    "UseArtifactInput.clientMutationId": "a name for the request, which nobody asks back",
    "DeleteFilesInput.projectId": ID_SAYS_IT,
    "DeleteViewInput.deleteDrafts": "there are no drafts",
    "UploadPartsInput.hexMD5": "every file is uploaded in one piece",
    "UploadPartsInput.partNumber": "every file is uploaded in one piece",
    "UpsertBucketInput.debug": "a client's own note",
    "UpsertBucketInput.jobRepo": "it is in the run's file wandb-metadata.json",
    "UpsertModelInput.access": "who has the key sees every project",
    "UpsertViewInput.createdUsing": "a report is the same, whoever wrote it",
    "UseArtifactInput.artifactEntityName": ID_SAYS_IT,
    "UseArtifactInput.artifactProjectName": ID_SAYS_IT,
    "UseArtifactInput.usedAs": "a label that no client shows",
}

REFUSED = {  # field: the values that change nothing, and why any other one is refused
    "CreateArtifactInput.digestAlgorithm": (("MANIFEST_MD5",), "manifests are summed by MD5"),
    "CreateArtifactFilesInput.digestAlgorithm": (("MANIFEST_MD5",), "files are summed by MD5"),
    "CreateArtifactInput.distributedID": (
        (),
        "distributed artifacts are not served: log one artifact per process",
    ),
    "CreateArtifactInput.labels": (("{}",), "labels are not kept: use metadata"),
    "CreateArtifactInput.ttlDurationSeconds": (
        (-1, -2),
        "versions are kept until somebody deletes them",
    ),
    "UpdateArtifactInput.ttlDurationSeconds": (
        (-1, -2),
        "versions are kept until somebody deletes them",
    ),
    "TagInput.attributes": ((), "a tag is a name"),
    "UpsertSweepInput.launchScheduler": (
        ("{}", "null"),
        "launch queues are not served: start `wandb agent`",
    ),
    "UpsertSweepInput.templateVariableValues": (
        ("{}", "null"),
        "launch queues are not served: start `wandb agent`",
    ),
}


class NotServedError(ValueError):
    """A client has used an input that loopback does not serve."""


def check(kind, value) -> None:
    """NotServedError for a value that a client has given to one of the REFUSED fields."""
    kind = get_named_type(kind)
    if isinstance(value, list):
        for item in value:
            check(kind, item)
    elif isinstance(kind, GraphQLInputObjectType) and isinstance(value, dict):
        for name, item in value.items():
            field = f"{kind.name}.{name}"
            harmless, reason = REFUSED.get(field, ((item,), ""))
            if item is not None and item not in harmless:
                raise NotServedError(f"loopback does not serve {field}: {reason}")
            check(kind.fields[name].type, item)
