"""Our errors as readers tell them: each has an S3 code, a status and an errno, and none hides what it is."""

from __future__ import annotations

import errno
import inspect

import pytest

from readers.errors import os_error, read_only, s3_error
from snapengine import errors
from snapengine.errors import NoSuchKey, SnapEngineError, VersionGone

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, SnapEngineError)]


def made(kind: type[SnapEngineError]) -> SnapEngineError:
    return NoSuchKey("k", "snap://b") if kind is NoSuchKey else kind("what happened")


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_an_answer_in_both_languages_and_keeps_its_words(kind: type[SnapEngineError]) -> None:
    code, status = s3_error(made(kind))
    assert code
    assert 400 <= status < 600
    error = os_error(made(kind), "a/b")
    assert (error.strerror, error.filename) == (str(made(kind)), "a/b")
    assert error.errno


@pytest.mark.parametrize(
    ("kind", "code", "status", "python"),
    [
        (errors.NoSuchKey, "NoSuchKey", 404, FileNotFoundError),
        (errors.VersionGone, "NoSuchVersion", 404, OSError),
        (errors.VersionArchived, "InvalidObjectState", 403, OSError),
        (errors.BytesUnavailable, "BytesUnavailable", 409, OSError),
        (errors.BucketNotEnabled, "NoSuchBucket", 404, FileNotFoundError),
        (errors.NoSuchSnapshot, "NoSuchBucket", 404, FileNotFoundError),
        (errors.TableMissing, "InternalError", 500, FileNotFoundError),
        (errors.PermissionMissing, "AccessDenied", 403, PermissionError),
        (errors.CredentialsMissing, "AccessDenied", 403, PermissionError),
        (errors.Unreachable, "ServiceUnavailable", 503, TimeoutError),
        (errors.CannotExpressKey, "InvalidArgument", 400, OSError),
        (errors.LogDamaged, "InternalError", 500, OSError),
    ],
)
def test_an_error_is_told_as_s3_and_python_would_tell_it(
    kind: type[SnapEngineError], code: str, status: int, python: type[OSError]
) -> None:
    assert s3_error(made(kind)) == (code, status)
    assert type(os_error(made(kind))) is python


def test_a_version_that_is_gone_is_not_taken_for_a_file_that_never_was() -> None:
    error = os_error(VersionGone("gone", "k", "v"))
    assert not isinstance(error, FileNotFoundError)
    assert error.errno == errno.ESTALE


def test_writing_is_refused_as_on_a_read_only_disk() -> None:
    error = read_only("writing", "a/b")
    assert (error.errno, error.filename) == (errno.EROFS, "a/b")
    assert "read-only" in str(error)
