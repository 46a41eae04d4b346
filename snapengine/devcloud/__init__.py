"""The embedded cloud: S3, SQS and DynamoDB in one process on loopback, with S3's own event records.

It is moto (https://docs.getmoto.org) with its S3 versioning and notifications corrected; `docs/devcloud.md`
says what it is not. Needs the `devcloud` extra.
"""

from snapengine.devcloud.cloud import ACCOUNT_ID, REGION, ClientArguments, DevCloud
from snapengine.devcloud.foreground import export_lines, serve

__all__ = ["ACCOUNT_ID", "REGION", "ClientArguments", "DevCloud", "export_lines", "serve"]
