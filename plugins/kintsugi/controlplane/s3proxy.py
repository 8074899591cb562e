"""The S3 server of the ``local`` environment: S3Proxy on the file system.

It keeps its data through kill -9 and knows multipart uploads, ranges and conditional PUTs. It has no
versioning.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kintsugi.core.errors import PreflightError
from kintsugi.core.settings import BUCKET
from kintsugi.infra.supervisord import Program, write_private

if TYPE_CHECKING:
    from kintsugi.core.settings import Settings

ACCESS_KEY = "kintsugi"
REGION = "us-east-1"

# Without a configuration logback tells everything: two lines for each object of each listing, which took a tenth of a
# processor on a day of many files, and again as much from the supervisor that keeps the log.
_LOGBACK = """\
<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d{yyyy-MM-dd'T'HH:mm:ss.SSSXXX, UTC} %-5level %logger{0} - %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="out"/></root>
</configuration>
"""
_JVM = ("-Xmx128m", "-Xss512k", "-XX:+UseSerialGC", "-XX:MaxMetaspaceSize=96m")


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """The server of one installation. ``directory``: its configuration; objects are in ``directory/data``."""

    address: str
    port: int
    directory: Path
    jars: Path
    secret_key: str

    @classmethod
    def of(cls, settings: Settings) -> ObjectStore:
        """The server that ``settings`` describes; makes its secret key at first use."""
        plane = settings.fleet.control_plane
        return cls(
            address=plane.address,
            port=plane.s3_port,
            directory=settings.control / "s3",
            jars=settings.jars("s3proxy"),
            secret_key=settings.secret("s3"),
        )

    @property
    def endpoint(self) -> str:
        """The URL that S3 clients are given."""
        return f"http://{self.address}:{self.port}"

    @property
    def _properties(self) -> Path:
        return self.directory / "s3proxy.properties"

    @property
    def _logback(self) -> Path:
        return self.directory / "logback.xml"

    def program(self) -> Program:
        """Its entry for supervisord."""
        java = shutil.which("java")
        if java is None:
            raise PreflightError("no Java is installed: run `apt-get install openjdk-17-jre-headless`")
        words = [
            java,
            *_JVM,
            f"-Dlogback.configurationFile=file://{self._logback}",
            "-cp",
            f"{self.jars}/*",
            "org.gaul.s3proxy.Main",
            "--properties",
            str(self._properties),
        ]
        return Program("s3", words, stop_seconds=5)

    def prepare(self) -> None:
        """Write the configuration (0600, it holds the secret key) and make the data directory."""
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        lines = (
            "s3proxy.authorization=aws-v2-or-v4",
            f"s3proxy.endpoint={self.endpoint}",
            f"s3proxy.identity={ACCESS_KEY}",
            f"s3proxy.credential={self.secret_key}",
            "s3proxy.jetty.max-threads=20",
            "jclouds.provider=filesystem-nio2",
            "jclouds.identity=local",
            "jclouds.credential=local",
            f"jclouds.filesystem.basedir={data}",
            "",
        )
        write_private(self._properties, "\n".join(lines))
        self._logback.write_text(_LOGBACK)

    def client(self) -> Any:
        """A boto3 S3 client for this server, with short timeouts and no retries of its own."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(
                connect_timeout=2,
                read_timeout=5,
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
            ),
        )

    def ensure_bucket(self, client: Any) -> bool:
        """Create the bucket if it isn't there; False when the server doesn't answer yet."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            names = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
            if BUCKET not in names:
                client.create_bucket(Bucket=BUCKET)
        except (BotoCoreError, ClientError):
            return False
        return True
