"""How the rival logs in: what it must keep secret is in files of mode 0600, and in no argument of a process."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import pkcs12

from benchmarks.throughput.rival import login
from kintsugi.core import certificates, client_tls
from kintsugi.core.certificates import Principal
from kintsugi.core.settings import Settings
from tests.installations import installation

JARS = [Path("/cache/a.jar"), Path("/cache/b.jar")]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    made = installation(tmp_path, "127.31")
    monkeypatch.setenv("KINTSUGI_STATE", str(made.state))
    monkeypatch.setenv("KINTSUGI_FLEET", str(made.fleet_file))
    monkeypatch.delenv(client_tls.TLS_DIRECTORY, raising=False)
    return made


def configured(settings: Settings, folder: Path) -> dict[str, str]:
    login.write_configuration(settings, folder, ["127.31.0.1", "127.31.0.2"], "dc1", JARS)
    lines = (folder / login.DEFAULTS).read_text().splitlines()
    return dict(line.split(" ", 1) for line in lines)


def test_the_rival_logs_in_as_recovery_with_a_certificate(settings: Settings, tmp_path: Path) -> None:
    certificates.create_authority(settings)
    folder = tmp_path / "rival"
    found = configured(settings, folder)
    role = client_tls.current_login(Principal.RECOVERY)
    assert found["spark.cassandra.auth.username"] == role.role
    assert found["spark.cassandra.auth.password"] == role.password
    assert found["spark.cassandra.output.consistency.level"] == "LOCAL_QUORUM"
    password = found["spark.cassandra.connection.ssl.keyStore.password"].encode()
    key, own, _ = pkcs12.load_key_and_certificates((folder / login.KEY_STORE).read_bytes(), password)
    assert key is not None
    assert own is not None
    assert "CN=recovery" in own.subject.rfc4514_string()
    trusted = pkcs12.load_pkcs12((folder / login.TRUST_STORE).read_bytes(), password)
    assert len(trusted.additional_certs) == 1


def test_only_the_owner_may_read_what_the_rival_logs_in_with(settings: Settings, tmp_path: Path) -> None:
    certificates.create_authority(settings)
    folder = tmp_path / "rival"
    configured(settings, folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == dict.fromkeys(
        (login.DEFAULTS, login.KEY_STORE, login.TRUST_STORE), "0o600"
    )


def test_the_source_of_kafka_names_files_and_no_secret(settings: Settings) -> None:
    certificates.create_authority(settings)
    options = login.kafka_options(settings, ["127.31.0.4:9092", "127.31.0.5:9092"])
    assert options["kafka.bootstrap.servers"] == "127.31.0.4:9092,127.31.0.5:9092"
    assert options["kafka.ssl.keystore.location"] == str(settings.tls / "recovery.pem")
    assert "PRIVATE KEY" not in str(options)
    assert "password" not in str(options)


def test_without_certificates_the_rival_proves_nothing(settings: Settings, tmp_path: Path) -> None:
    found = configured(settings, tmp_path / "rival")
    assert not [name for name in found if "ssl" in name or "auth" in name]
    assert login.kafka_options(settings, ["127.31.0.4:9092"]) == {
        "kafka.bootstrap.servers": "127.31.0.4:9092"
    }
