"""A stand-in for the hub on this machine: it counts what it is asked, and answers as it is told."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from setr_lib.models import hub


class StandIn:
    """A server at :attr:`address`.

    Attributes:
        asked: The path of every request, in order.
    """

    def __init__(self, status: int, sizes: Mapping[str, int]) -> None:
        self.asked: list[str] = []
        asked, body = self.asked, {"siblings": [{"rfilename": k, "size": v} for k, v in sizes.items()]}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def stand_in(status: int = 200, sizes: Mapping[str, int] | None = None) -> Iterator[StandIn]:
    """A hub that answers every question with ``status`` and a list of files with ``sizes``."""
    made = StandIn(status, sizes or {})
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        thread.join()
        made.server.server_close()


@contextmanager
def silent() -> Iterator[tuple[str, list[socket.socket]]]:
    """The address of a server that takes connections and never answers, and the connections that it took."""
    taken: list[socket.socket] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def take() -> None:
        while True:
            try:
                taken.append(listening.accept()[0])
            except OSError:
                return

    taking = threading.Thread(target=take, daemon=True)
    taking.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", taken
    finally:
        listening.shutdown(socket.SHUT_RDWR)  # wakes who waits for a connection
        taking.join()
        for connection in (listening, *taken):
            connection.close()


def closed_port() -> str:
    """An address of this machine at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def use_hub(monkeypatch: pytest.MonkeyPatch, address: str, home: Path) -> None:
    """Have the hub at an address, with an empty cache below ``home``; nothing of before is remembered."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setattr(hub, "_SILENT", {})
