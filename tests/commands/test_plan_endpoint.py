"""``setr plan`` where an endpoint writes the texts: requests are counted, and none is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from setr_lib.cli import main
from tests.tiny_encoder import write_tiny_clip

SETTINGS = """
[models]
device = "cpu"
encoder = {{ name = "local-dir:clip" }}

[models.judge]
name = "nobody/has-this-model"
prompts = "miniature"

[models.judge.endpoint]
url = "http://127.0.0.1:{port}/v1"
model = "a-model"
concurrency = 3

[datasets.mine]
kind = "folder"
root = "pictures"

[coarse]
strategies = ["sum", "union_text", "intersection"]
default = "sum"

[reranking]
rerankers = []
"""


@pytest.fixture
def endpoint() -> Iterator[tuple[int, list[str]]]:
    """A local server that only notes who asks: its port, and the paths."""
    asked: list[str] = []

    class Notes(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_error(500)

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Notes)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_requests_to_an_endpoint_are_counted_and_none_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], endpoint: tuple[int, list[str]]
) -> None:
    port, asked = endpoint
    (tmp_path / "pictures").mkdir()
    for place in range(3):
        Image.new("RGB", (8, 8), (80 * place, 0, 0)).save(tmp_path / "pictures" / f"{place}.png")
    (tmp_path / "pictures/queries.csv").write_text(
        "reference,modification,target\n0.png,redder,1.png\n1.png,much redder,2.png\n"
    )
    write_tiny_clip(tmp_path / "clip")
    config = tmp_path / "setr.toml"
    config.write_text(SETTINGS.format(port=port), encoding="utf-8")

    assert main(["--config", str(config), "plan", "--sample", "2"]) == 0

    page = " ".join(capsys.readouterr().out.split())
    # Two references are described and two queries composed; the judge named above is not there to be loaded.
    assert f"texts: 4 requests with pictures to 127.0.0.1:{port}" in page
    assert "3 at once; their time is not measured and not in the time above" in page
    assert "describe the references 2 - -" in page and "compose the queries 2 - -" in page, "not 0 s"
    assert asked == []
