"""The AWS SDK's exceptions as ours, each with the service, the action and a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions as sdk
from botocore.parsers import ResponseParserError

from snapengine.errors import (
    BucketUnknown,
    CredentialsMissing,
    PermissionMissing,
    SnapEngineError,
    TableMissing,
    Unreachable,
    UsageError,
)

_CREDENTIALS = {
    "ExpiredToken",
    "ExpiredTokenException",
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidSignatureException",
    "AuthFailure",
}
_DENIED = {"AccessDenied", "AccessDeniedException", "AllAccessDisabled", "UnauthorizedOperation", "403"}
THROTTLED = {
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
    "Throttling",
    "RequestLimitExceeded",
    "RequestThrottled",
    "SlowDown",
    "ServiceUnavailable",
    "InternalServerError",
    "InternalError",
    "500",
    "503",
    "RequestTimeout",
    "RequestTimeTooSkewed",
}
_SERVER_FAULT = 500
"""HTTP statuses from here on are the server's doing (RFC 9110, 15.6)."""


def code_of(error: sdk.ClientError) -> str:
    """AWS's own error code, such as `ConditionalCheckFailedException`."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def translated(target: str) -> Iterator[None]:
    """Raise SDK exceptions from within as ours. `target` says in words what was asked of whom."""
    try:
        yield
    except (sdk.ClientError, sdk.BotoCoreError) as error:
        raise translate(error, target) from error
    except ValueError as error:
        if not str(error).startswith("Invalid endpoint"):  # botocore's word on what is no URL
            raise
        raise UsageError(f"{target} cannot be reached: {error}. Check AWS_ENDPOINT_URL.") from error
    except ResponseParserError as error:  # a proxy's page, say; botocore does not count it as its own
        raise Unreachable(f"{target} did not answer as AWS does: {error}. Check AWS_ENDPOINT_URL.") from error


def bucket_unknown(target: str) -> BucketUnknown:
    """The error for a bucket that S3 does not know. `target`: `bucket scans`, say."""
    return BucketUnknown(
        f"There is no {target}, or not for these credentials. "
        "Check the name, AWS_PROFILE and AWS_ENDPOINT_URL."
    )


def translate(error: sdk.ClientError | sdk.BotoCoreError, target: str) -> SnapEngineError:
    """Our error for an SDK one."""
    if isinstance(error, sdk.ClientError):
        return _translate_reply(error, target)
    if isinstance(
        error,
        sdk.NoCredentialsError
        | sdk.PartialCredentialsError
        | sdk.CredentialRetrievalError
        | sdk.TokenRetrievalError,
    ):
        return CredentialsMissing(
            f"No AWS credentials for {target}: {error}. Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or sign in with `aws sso login`."
        )
    if isinstance(error, sdk.ProfileNotFound):
        return CredentialsMissing(f"{error}. Set AWS_PROFILE to a profile that exists.")
    if isinstance(error, sdk.NoRegionError):
        return UsageError(f"No AWS region for {target}. Set AWS_REGION.")
    if isinstance(error, sdk.ParamValidationError):
        return UsageError(f"AWS will not take {target}: {error}")
    return Unreachable(f"No answer from {target}: {error}. Check AWS_ENDPOINT_URL and the network.")


def _status(error: sdk.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _translate_reply(error: sdk.ClientError, target: str) -> SnapEngineError:
    code = code_of(error)
    action = error.operation_name
    said = error.response.get("Error", {}).get("Message", "")
    if code in _CREDENTIALS:
        return CredentialsMissing(f"AWS does not accept the credentials for {target} ({code}). Renew them.")
    if code in _DENIED:
        return PermissionMissing(
            f"AWS denied {action} on {target}. Allow it for this role, then try again. {said}".strip(),
            action=action,
        )
    if code == "NoSuchBucket":
        return bucket_unknown(target)
    if code == "ResourceNotFoundException":
        return TableMissing(f"There is no {target}. Create it with `snapengine init`.")
    if code in THROTTLED or "Throttling" in code or _status(error) >= _SERVER_FAULT:
        return Unreachable(f"{target} kept refusing {action} ({code}). Try again later.")
    return SnapEngineError(f"{action} on {target} failed: {code} {said}".strip())
