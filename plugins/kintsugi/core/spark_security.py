"""How Spark is locked: one secret for its protocol, and one key for its pages.

1. Master, workers, drivers and executors prove to each other that they know the secret, and encrypt what they say
   (https://spark.apache.org/docs/latest/security.html). Submission over HTTP asks for no secret, so it is off.
2. A page answers only a request whose ``Authorization`` header is ``Bearer`` and a JSON Web Token that is signed with
   the key by HMAC (Spark's ``JWSFilter``). No page can end an application.
   Probes sign the token by themselves, because importing PyJWT takes 0.17 s at the start of each command.
3. The token has no end: a node whose clock is wrong would refuse a token that is valid. A new key makes it useless.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

from kintsugi.core.settings import SPARK_RPC_SECRET, SPARK_UI_SECRET, Settings, load_settings

_FILTER = "org.apache.spark.ui.JWSFilter"


def spark_defaults(settings: Settings) -> dict[str, str]:
    """Return what every part of Spark reads in its ``spark-defaults.conf``; contains secrets, made at first use."""
    return {
        "spark.authenticate": "true",
        "spark.authenticate.secret": settings.secret(SPARK_RPC_SECRET),
        "spark.network.crypto.enabled": "true",
        "spark.master.rest.enabled": "false",
        "spark.ui.filters": _FILTER,
        f"spark.{_FILTER}.param.secretKey": _encode(bytes.fromhex(settings.secret(SPARK_UI_SECRET))),
        "spark.ui.killEnabled": "false",
    }


def spark_conf_directory(settings: Settings) -> Path:
    """Return ``SPARK_CONF_DIR`` of the drivers that run beside Airflow."""
    return settings.control / "spark" / "conf"


def spark_page_headers() -> dict[str, str]:
    """Return the headers for Spark's pages of this installation; none while it has no key."""
    settings = load_settings()
    if not (settings.secrets / SPARK_UI_SECRET).exists():
        return {}
    return {"Authorization": f"Bearer {sign_page_token(bytes.fromhex(settings.secret(SPARK_UI_SECRET)))}"}


def sign_page_token(key: bytes) -> str:
    """Return a JSON Web Token without an end, signed with ``key`` (RFC 7515, HS256)."""
    signed = ".".join(_encode(part) for part in (b'{"alg":"HS256","typ":"JWT"}', b'{"sub":"kintsugi"}'))
    return f"{signed}.{_encode(hmac.new(key, signed.encode(), hashlib.sha256).digest())}"


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


if __name__ == "__main__":
    for _name, _value in spark_page_headers().items():
        print(f"{_name}: {_value}")
