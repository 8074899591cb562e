"""The S3 server of the control plane: S3Proxy on the file system, with a key for each purpose.

Its data survives kill -9. It supports multipart uploads, ranges and conditional PUTs, but no versioning. What a key may
do is in `kintsugi.core.s3_keys`; ``S3ProxyWithRights.java`` enforces it (docs/decisions/0145).
"""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kintsugi.core.connections import REGION
from kintsugi.core.errors import PreflightError
from kintsugi.core.files import write_private, write_private_once
from kintsugi.core.s3_keys import (
    RIGHTS,
    S3Key,
    S3Purpose,
    new_secret,
    replaced_secret,
    secret_name,
    valid_keys,
)
from kintsugi.core.settings import BUCKET
from kintsugi.infra.supervisord import Program

if TYPE_CHECKING:
    from kintsugi.core.settings import Settings

_SERVER = Path(__file__).with_name("S3ProxyWithRights.java")
_ONLY_SECRET = "s3"  # noqa: S105 - the name of the secret: the one key of all clients in version 0.1

# Without a configuration logback logs two lines for each object of each listing. On a day of many files that took a
# tenth of a processor, and as much again for the supervisor that writes the log.
_LOGBACK = """\
<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d{yyyy-MM-dd'T'HH:mm:ss.SSSXXX, UTC} %-5level %logger{0} - %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="out"/></root>
</configuration>
"""
_JVM = ("-Xmx128m", "-Xss512k", "-XX:+UseSerialGC", "-XX:MaxMetaspaceSize=96m")


def server_directory(settings: Settings) -> Path:
    """Return the directory of the server of an installation."""
    return settings.control / "s3"


def bucket_below(directory: Path) -> Path:
    """Return the directory that is the bucket of the server in ``directory``: a file for each object, by its key."""
    return directory / "data" / BUCKET


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """The server of one installation. ``directory``: its configuration; objects are in ``directory/data``.

    ``keys``: those that are valid, the current one of each purpose first.
    """

    address: str
    port: int
    directory: Path
    jars: Path
    keys: tuple[S3Key, ...]
    secrets: Path

    @classmethod
    def of(cls, settings: Settings) -> ObjectStore:
        """Return the server that ``settings`` describes; creates its keys at first use."""
        plane = settings.fleet.control_plane
        return cls(
            address=plane.address,
            port=plane.s3_port,
            directory=server_directory(settings),
            jars=settings.jars("s3proxy"),
            keys=valid_keys(settings),
            secrets=settings.secrets,
        )

    @property
    def endpoint(self) -> str:
        """Return the URL for S3 clients."""
        return f"http://{self.address}:{self.port}"

    @property
    def _properties(self) -> Path:
        return self.directory / "s3proxy.properties"

    @property
    def has_one_key(self) -> bool:
        """Whether the server was prepared by version 0.1, whose one key was good for everything."""
        return (self.secrets / _ONLY_SECRET).exists()

    @property
    def bucket(self) -> Path:
        """Return the directory that is the bucket: a file for each object, by its key."""
        return bucket_below(self.directory)

    @property
    def keys_file(self) -> Path:
        """Return the path of the file with all keys and their rights; 0600. The server reads it when it changes."""
        return self.directory / "keys.properties"

    @property
    def _logback(self) -> Path:
        return self.directory / "logback.xml"

    def program(self) -> Program:
        """Return its entry for supervisord."""
        java = shutil.which("java")
        if java is None:
            raise PreflightError("no Java is installed: run `apt-get install openjdk-17-jre-headless`")
        words = [
            java,
            *_JVM,
            f"-Dlogback.configurationFile=file://{self._logback}",
            f"-Dkintsugi.s3.keys={self.keys_file}",
            "-cp",
            f"{self.jars}/*",
            "org.codehaus.janino.SimpleCompiler",  # compiles the file, and runs its class
            str(_SERVER),
            f"kintsugi.nio2blob.{_SERVER.stem}",
            str(self._properties),
        ]
        return Program("s3", words, stop_seconds=5)

    def prepare(self) -> None:
        """Write the configuration, create the bucket, and delete the key of version 0.1, which was good for all."""
        # The bucket is a directory, so no key needs the right to create one.
        self.bucket.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.bucket.parent.chmod(0o700)
        lines = (
            "s3proxy.authorization=aws-v2-or-v4",
            f"s3proxy.endpoint={self.endpoint}",
            # The builder of S3Proxy asks for a key. It is none: the locator of S3ProxyWithRights doesn't know it.
            "s3proxy.identity=nobody",
            "s3proxy.credential=nobody",
            "s3proxy.jetty.max-threads=20",
            "jclouds.provider=filesystem-nio2",
            "jclouds.identity=local",
            "jclouds.credential=local",
            f"jclouds.filesystem.basedir={self.bucket.parent}",
            "",
        )
        write_private(self._properties, "\n".join(lines))
        self._logback.write_text(_LOGBACK)
        self.write_keys()
        (self.secrets / _ONLY_SECRET).unlink(missing_ok=True)

    def write_keys(self) -> None:
        """Tell the server, which may run, which keys are valid and what they may do."""
        lines = [f"bucket={BUCKET}"]
        lines += [f"key.{key.access_key}={key.purpose} {key.secret}" for key in self.keys]
        for purpose, rights in RIGHTS.items():
            for name in ("read", "write", "delete"):
                lines.append(f"may.{purpose}.{name}={' '.join(getattr(rights, name))}")
        text = "\n".join([*lines, ""])
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (self.keys_file.exists() and self.keys_file.read_text() == text):
            write_private(self.keys_file, text)

    def answers(self, client: Any) -> bool:
        """Whether the server has the bucket; ``client``: of any purpose."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            client.head_bucket(Bucket=BUCKET)
        except (BotoCoreError, ClientError):
            return False
        return True

    def client(self, purpose: S3Purpose) -> Any:
        """Return a boto3 S3 client for this server, with short timeouts and without retries."""
        import boto3
        from botocore.config import Config

        key = next(key for key in self.keys if key.purpose is purpose)
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=key.access_key,
            aws_secret_access_key=key.secret,
            region_name=REGION,
            config=Config(
                connect_timeout=2,
                read_timeout=5,
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
            ),
        )


def renew_keys(settings: Settings) -> int:
    """Give each purpose a new key; those from before stay valid until `drop_replaced_keys`. Returns how many.

    1. The server learns the new keys, beside the old ones.
    2. Clients use the new ones from their next call of `connections.s3_client` on.

    It may be killed and run again. No key is replaced a second time before `drop_replaced_keys`.
    """
    purposes = [
        purpose
        for purpose in S3Purpose
        if new_secret(settings, purpose).exists() or not replaced_secret(settings, purpose).exists()
    ]
    for purpose in purposes:
        write_private_once(new_secret(settings, purpose), secrets.token_hex(32))
    ObjectStore.of(settings).write_keys()
    for purpose in purposes:
        write_private_once(replaced_secret(settings, purpose), settings.secret(secret_name(purpose)))
        new_secret(settings, purpose).replace(settings.secrets / secret_name(purpose))
    ObjectStore.of(settings).write_keys()
    return len(purposes)


def drop_replaced_keys(settings: Settings) -> int:
    """End the keys that were replaced; returns how many. The server refuses them from the next request on."""
    found = [path for purpose in S3Purpose if (path := replaced_secret(settings, purpose)).exists()]
    for path in found:
        path.unlink()
    ObjectStore.of(settings).write_keys()
    return len(found)
