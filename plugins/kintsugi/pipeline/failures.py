"""Whose fault is it? An error of one file ends that file; an error of its surroundings is tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kintsugi.core.errors import InputError, KintsugiError, NotAcknowledged

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

    from kintsugi.core.data_source import S3Object

GONE = ("PreconditionFailed", "412", "NoSuchKey", "404", "NotFound")


def is_transient(error: Exception) -> bool:
    """Whether S3, Kafka, Postgres or the machine failed, and not the file: the same file is tried again.

    Everything else comes from the content of the file, foreseen (InputError) or not. An OSError without a number is one
    of those: bz2 raises it for corrupt data.
    """
    if isinstance(error, KintsugiError):
        return not isinstance(error, InputError)
    if isinstance(error, OSError):
        return error.errno is not None
    return isinstance(error, MemoryError) or is_of_s3(error) or stops_all(error)


def is_of_s3(error: Exception) -> bool:
    """Whether S3 refused or broke off an answer; another file may be readable all the same."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    return isinstance(error, (BotoCoreError, ClientError, HTTPError))


def stops_all(error: Exception) -> bool:
    """Whether no other file could be ingested either: Kafka or Postgres doesn't answer."""
    import psycopg
    from kafka.errors import KafkaError

    if isinstance(error, KintsugiError):
        return isinstance(error, NotAcknowledged) or not isinstance(error, InputError)
    return isinstance(error, (psycopg.Error, KafkaError))


def has_vanished(s3: S3Client, bucket: str, item: S3Object) -> bool:
    """Whether S3 has no longer this content under the key; raises what S3 raises."""
    from botocore.exceptions import ClientError

    try:
        s3.head_object(Bucket=bucket, Key=item.key, IfMatch=item.etag)
    except ClientError as error:
        if error.response["Error"]["Code"] in GONE:
            return True
        raise
    return False


def reason_of(error: Exception) -> str:
    """The error as one line: a deliberate one as it is, another with its kind before it."""
    said = " ".join(str(error).split())[:500]
    return said if isinstance(error, KintsugiError) else f"{type(error).__name__}: {said}"
