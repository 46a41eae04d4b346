"""Signatures of GETs are those of botocore's signer, to the letter."""

from __future__ import annotations

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from snapengine.stores.sigv4 import signed_second

PLAIN = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


def by_botocore(url: str, credentials: ReadOnlyCredentials, headers: dict[str, str]) -> dict[str, str]:
    request = AWSRequest("GET", url, headers=headers)
    S3SigV4Auth(credentials, "s3", "eu-west-1").add_auth(request)
    return {name.lower(): str(value) for name, value in request.headers.items()}


@given(
    path=st.text("abcXYZ019/-_.~%", max_size=60),
    version=st.text("abcXYZ019-_.", min_size=1, max_size=40),
    secret=PLAIN,
    token=st.none() | PLAIN,
    own=st.fixed_dictionaries({}, optional={"if-match": PLAIN, "range": PLAIN}),
)
def test_a_signature_is_the_one_of_botocores_signer(
    path: str, version: str, secret: str, token: str | None, own: dict[str, str]
) -> None:
    credentials = ReadOnlyCredentials("AKIDEXAMPLE", secret, token)
    kept = {"x-amz-checksum-mode": "ENABLED", "user-agent": "Boto3/1"}
    theirs = by_botocore(f"https://h.example:8333/{path}?versionId={version}", credentials, kept | own)
    own = dict(sorted(own.items()))
    signed = signed_second(
        "h.example:8333", "eu-west-1", ("AKIDEXAMPLE", secret, token), theirs["x-amz-date"], kept
    )
    ours = {"authorization": signed.authorization(f"/{path}", f"versionId={version}", own)}
    assert ours | dict(signed.headers) | own == theirs


@pytest.mark.parametrize("token", ["", None])
def test_credentials_without_a_token_send_none(token: str | None) -> None:
    signed = signed_second("h", "us-east-1", ("AK", "SK", token), "20261121T110000Z", {})
    assert "x-amz-security-token" not in signed.lines
