"""A server on this machine that speaks what SETR uses of the OpenAI protocol, and answers as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]
"""Status, headers and body of a response."""
Answer = Callable[[dict[str, Any]], Reply]


def said(text: str | None, finish: str = "stop", **more: Any) -> Reply:
    """A response whose message is ``text``."""
    message = {"role": "assistant", "content": text, **more}
    document = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "any",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    }
    return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()


def fault(status: int, words: str, **headers: str) -> Reply:
    """A response of an error, in the protocol's words."""
    body = json.dumps({"error": {"message": words, "type": "error"}}).encode()
    return status, {"Content-Type": "application/json", "Retry-After-Ms": "1", **headers}, body


def texts_of(request: dict[str, Any]) -> str:
    """All text of a request's messages."""
    parts = [message["content"] for message in request["messages"]]
    return " ".join(
        part if isinstance(part, str) else " ".join(piece.get("text", "") for piece in part) for part in parts
    )


def picture_of(request: dict[str, Any]) -> str:
    """The first picture of a request's messages, as it was sent."""
    pieces = [
        piece
        for message in request["messages"]
        if isinstance(message["content"], list)
        for piece in message["content"]
        if piece["type"] == "image_url"
    ]
    return pieces[0]["image_url"]["url"]


@dataclass
class StandIn:
    """A running server.

    Attributes:
        url: Its address, as settings have it.
        requests: Every body that came, read.
        headers: The headers of each.
        most: Requests that were answered at the same time, at most.
    """

    url: str
    answer: Answer
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        request = json.loads(body or b"{}")
        with self._lock:
            self.requests.append({**request, "path": path})
            self.headers.append(headers)
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            return self.answer(request)
        finally:
            with self._lock:
                self._now -= 1


@contextmanager
def stand_in(answer: Answer, slow: float = 0.0) -> Iterator[StandIn]:
    """A server on a free port of 127.0.0.1.

    Args:
        answer: What it answers to a request's body.
        slow: Seconds between two bytes of a body.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            came = {name.lower(): value for name, value in self.headers.items()}
            status, headers, sent = server.stand_in.reply(self.path, came, body)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(sent)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                for start in range(0, len(sent), 1) if slow else [0]:
                    time.sleep(slow)
                    self.wfile.write(sent[start : start + 1] if slow else sent)
                    self.wfile.flush()
            except OSError:
                self.close_connection = True  # the client has seen enough

        do_GET = do_POST

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except ConnectionError:  # the client has hung up
                self.close_connection = True

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        stand_in: StandIn

    server = Server(("127.0.0.1", 0), Handler)
    server.stand_in = StandIn(f"http://127.0.0.1:{server.server_address[1]}/v1", answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.stand_in
    finally:
        server.shutdown()
        server.server_close()
