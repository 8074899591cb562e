"""The cause of an error: the file itself, which then has failed, or its surroundings, which are tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kintsugi.core.errors import InputError, KintsugiError, NotAcknowledged

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

    from kintsugi.core.data_source import S3Object

GONE = ("PreconditionFailed", "412", "NoSuchKey", "404", "NotFound")


def is_transient(error: Exception) -> bool:
    """Whether S3, Kafka, Postgres or the machine failed, and not the file: then the same file is tried again.

    All other errors come from the content of the file, expected (InputError) or not. An OSError without a number is
    one of them: bz2 raises it for corrupt data.
    """
    if isinstance(error, KintsugiError):
        return not isinstance(error, InputError)
    if isinstance(error, OSError):
        return error.errno is not None
    return isinstance(error, MemoryError) or is_s3_error(error) or stops_all_files(error)


def is_s3_error(error: Exception) -> bool:
    """Whether S3 refused a request or broke off an answer; other files may still be readable."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    return isinstance(error, (BotoCoreError, ClientError, HTTPError))


def stops_all_files(error: Exception) -> bool:
    """Whether no file can be ingested, because Kafka or Postgres doesn't answer."""
    import psycopg
    from kafka.errors import KafkaError

    if isinstance(error, KintsugiError):
        return isinstance(error, NotAcknowledged) or not isinstance(error, InputError)
    return isinstance(error, (psycopg.Error, KafkaError))


def is_gone(s3: S3Client, bucket: str, item: S3Object) -> bool:
    """Whether S3 no longer has this content under the key; raises what S3 raises."""
    from botocore.exceptions import ClientError

    try:
        s3.head_object(Bucket=bucket, Key=item.key, IfMatch=item.etag)
    except ClientError as error:
        if error.response["Error"]["Code"] in GONE:
            return True
        raise
    return False


def format_reason(error: Exception) -> str:
    """Format the error as one line; an error that isn't ours gets its class name in front."""
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, KintsugiError) else f"{type(error).__name__}: {text}"
