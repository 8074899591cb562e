"""How Airflow is started: its scheduler waits for the api-server."""

from __future__ import annotations

import socket
import threading

from kintsugi.local.run_airflow import await_api


def test_the_api_is_awaited_until_it_listens_and_not_for_ever() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{server.getsockname()[1]}/execution/"
        assert not await_api(url, seconds=0.3)
        late = threading.Timer(0.5, server.listen)
        late.start()
        assert await_api(url, seconds=10)
        late.join()
