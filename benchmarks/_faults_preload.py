"""Imported by the process from which the struck ones are forked: all code, and botocore's models, once."""

from __future__ import annotations

from typing import Any

import boto3
import botocore.session
from botocore.loaders import create_loader

import benchmarks._faults_process  # noqa: F401  # with all that it imports

_loader = create_loader()
botocore.session.create_loader = lambda *_: _loader
_session: Any = boto3.Session(region_name="us-east-1")
for _service in ("s3", "sqs", "dynamodb"):
    _session.client(_service, aws_access_key_id="none", aws_secret_access_key="none")  # noqa: S106  # no secret
