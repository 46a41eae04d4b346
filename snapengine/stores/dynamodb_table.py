"""Creating the DynamoDB table: on-demand, encrypted, protected from deletion, recovery, time to live."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from snapengine.aws_errors import code_of
from snapengine.stores.dynamodb_codec import EXPIRES

_UNSUPPORTED = {"UnknownOperationException", "UnknownOperation", "NotImplemented", "InvalidAction"}


def create_table(client: Any, table: str) -> list[str]:
    """Create the table, or set right what differs. Says in words what was done; empty if nothing was.

    Safe to repeat, and safe beside another process that does the same.
    """
    done = _create(client, table)
    client.get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
    description = client.describe_table(TableName=table)["Table"]
    if not description.get("DeletionProtectionEnabled"):
        client.update_table(TableName=table, DeletionProtectionEnabled=True)
        after = client.describe_table(TableName=table)["Table"]
        done.append(
            "deletion protection switched on"
            if after.get("DeletionProtectionEnabled")
            else "WARNING: this endpoint does not offer deletion protection"
        )
    return done + _switch_on_recovery(client, table) + _switch_on_expiry(client, table)


def _create(client: Any, table: str) -> list[str]:
    try:
        client.create_table(
            TableName=table,
            AttributeDefinitions=[
                {"AttributeName": "PK", "AttributeType": "S"},
                {"AttributeName": "SK", "AttributeType": "S"},
            ],
            KeySchema=[
                {"AttributeName": "PK", "KeyType": "HASH"},
                {"AttributeName": "SK", "KeyType": "RANGE"},
            ],
            BillingMode="PAY_PER_REQUEST",
            DeletionProtectionEnabled=True,
            SSESpecification={"Enabled": True, "SSEType": "KMS"},
        )
    except ClientError as error:
        if code_of(error) == "ResourceInUseException":  # it is there, or is being created
            return []
        raise
    return [f"table {table} created: on-demand, encrypted, protected from deletion"]


def _switch_on_recovery(client: Any, table: str) -> list[str]:
    try:
        backups = client.describe_continuous_backups(TableName=table)["ContinuousBackupsDescription"]
        recovery = backups.get("PointInTimeRecoveryDescription", {})
        if recovery.get("PointInTimeRecoveryStatus") == "ENABLED":
            return []
        client.update_continuous_backups(
            TableName=table, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
        )
    except ClientError as error:
        if code_of(error) in _UNSUPPORTED:
            return ["WARNING: this endpoint does not offer point-in-time recovery"]
        raise
    return ["point-in-time recovery switched on"]


def _switch_on_expiry(client: Any, table: str) -> list[str]:
    """AWS takes up to an hour to put it into effect; items may be given their time before."""
    try:
        now = client.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
        if now.get("TimeToLiveStatus") in {"ENABLED", "ENABLING"}:
            if now.get("AttributeName") == EXPIRES:
                return []
            other = now.get("AttributeName")
            return [
                f"WARNING: time to live goes by attribute {other}, not {EXPIRES}: nothing leaves the table"
            ]
        client.update_time_to_live(
            TableName=table, TimeToLiveSpecification={"Enabled": True, "AttributeName": EXPIRES}
        )
    except ClientError as error:
        if code_of(error) in _UNSUPPORTED:
            return ["WARNING: this endpoint does not offer a time to live; nothing will leave the table"]
        raise
    return [f"time to live switched on, by the attribute {EXPIRES}"]
