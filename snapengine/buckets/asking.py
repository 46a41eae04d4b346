"""What is asked of AWS on a bucket's behalf, and which IAM action each call needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError

from snapengine.aws_errors import bucket_unknown, code_of, translate
from snapengine.errors import PermissionMissing

_ACTIONS = {
    # S3's actions are often not named as its operations are (Service Authorization Reference, Amazon S3).
    "HeadBucket": "s3:ListBucket",
    "GetBucketNotificationConfiguration": "s3:GetBucketNotification",
    "PutBucketNotificationConfiguration": "s3:PutBucketNotification",
    "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "GetBucketReplication": "s3:GetReplicationConfiguration",
    "GetObjectLockConfiguration": "s3:GetBucketObjectLockConfiguration",
    "GetBucketVersioning": "s3:GetBucketVersioning",
    "PutBucketVersioning": "s3:PutBucketVersioning",
    "ListObjectVersions": "s3:ListBucketVersions",
    "HeadObject": "s3:GetObjectVersion",
    "GetMetricData": "cloudwatch:GetMetricData",
    "GetCallerIdentity": "sts:GetCallerIdentity",
}
_NO_BUCKET = {"404", "NoSuchBucket", "NotFound"}


def iam_action(operation: str) -> str:
    """The IAM action that an operation of S3, STS, CloudWatch or SQS needs."""
    return _ACTIONS.get(operation, f"sqs:{operation}")


@contextmanager
def asking(target: str) -> Iterator[None]:
    """Raise the SDK's exceptions as ours, denials with the IAM action. `target`: `bucket scans`, say."""
    try:
        yield
    except ClientError as error:
        if error.operation_name == "HeadBucket" and code_of(error) in _NO_BUCKET:
            raise bucket_unknown(target) from error
        ours = translate(error, target)
        if isinstance(ours, PermissionMissing):
            action = iam_action(error.operation_name)
            said = error.response.get("Error", {}).get("Message", "")
            if error.operation_name == "HeadBucket":  # its replies have no body to tell the two apart
                said = "Or the bucket belongs to another account."
            raise PermissionMissing(
                f"AWS denied {action} on {target}. Allow it for this role, then try again. {said}".strip(),
                action=action,
            ) from error
        raise ours from error
    except BotoCoreError as error:
        raise translate(error, target) from error
