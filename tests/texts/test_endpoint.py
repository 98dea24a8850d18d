"""Generated texts by a model behind an OpenAI-compatible endpoint: a real server on this machine, and hostile
ones.
"""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from setr_lib.commands.check import Check
from setr_lib.commands.setup_checks import configured
from setr_lib.content_cache import ContentCache
from setr_lib.hashing import fingerprint_file
from setr_lib.models.multimodal import EndpointError, EndpointModel, PictureError, RefusedTextError
from setr_lib.pipeline.context import pipeline_context
from setr_lib.settings import JudgeSettings, SettingsError, load_settings
from setr_lib.tables import GALLERY
from setr_lib.texts.generation import CACHE_KIND, describe_images
from setr_lib.texts.prompts import PromptSet
from tests.texts.stand_in_server import Reply, StandIn, fault, picture_of, said, stand_in, texts_of

KEY = "sk-a-key-that-nobody-may-see"


@pytest.fixture
def prompts(tmp_path: Path) -> PromptSet:
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "describe.jinja").write_text("<image>\nDescribe the picture.")
    return PromptSet(folder)


@pytest.fixture
def gallery(tmp_path: Path) -> pl.DataFrame:
    rows = []
    for number in range(5):
        path = tmp_path / f"secret-name-{number}.png"
        Image.new("RGBA", (8 + number, 6), (10 * number, 20, 30, 128)).save(path)
        rows.append(
            {
                "image_id": f"i{number}",
                "path": str(path),
                "galleries": ["all"],
                "status": "ok",
                "detail": "",
                "fingerprint": fingerprint_file(path),
                "pixels": "",
            }
        )
    return pl.DataFrame(rows, schema=GALLERY)


def judge(server: StandIn | str, **keys: Any) -> JudgeSettings:
    url = server if isinstance(server, str) else server.url
    fast = {"timeout": 60.0, "retries": 1, "concurrency": 2}
    return JudgeSettings.model_validate({"endpoint": {"url": url, "model": "big", **fast, **keys}})


def model_of(server: StandIn | str, **keys: Any) -> EndpointModel:
    return EndpointModel.from_settings(judge(server, **keys))


def width_of(request: dict[str, Any]) -> int:
    return opened(picture_of(request)).width


def opened(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2])))


def described(
    server: StandIn | str, prompts: PromptSet, gallery: pl.DataFrame, tmp_path: Path, **keys: Any
) -> pl.DataFrame:
    cache = ContentCache(tmp_path / "cache.sqlite", CACHE_KIND)
    return describe_images(model_of(server, **keys), prompts, gallery, cache)


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in(lambda request: said(f"  {width_of(request)} wide ")) as running:
        yield running


def test_pictures_are_sent_as_pixels_and_answers_kept_under_the_endpoints_model(
    server: StandIn, prompts: PromptSet, gallery: pl.DataFrame, tmp_path: Path
) -> None:
    first = described(server, prompts, gallery, tmp_path)
    assert first["caption"].to_list() == [f"{8 + number} wide" for number in range(5)]
    assert set(first["model"]) == {"openai-endpoint:big"}
    assert len(server.requests) == 5
    for request in server.requests:
        assert (request["path"], request["model"]) == ("/v1/chat/completions", "big")
        assert (request["temperature"], request["max_tokens"]) == (0, JudgeSettings().max_new_tokens)
        assert "Describe the picture." in texts_of(request)
        assert "secret-name" not in str(request) and str(tmp_path) not in str(request)
    sent = {picture_of(request) for request in server.requests}
    for number, path in enumerate(gallery["path"]):
        # By the official rules transparency is dropped and the colour below it stays.
        url = next(url for url in sent if opened(url).width == 8 + number)
        assert url.startswith("data:image/png;base64,")
        expected = np.asarray(Image.open(path))[..., :3]
        np.testing.assert_array_equal(np.asarray(opened(url)), expected)
    assert described(server, prompts, gallery, tmp_path).equals(first)
    assert len(server.requests) == 5
    described(server, prompts, gallery, tmp_path, model="other")
    assert len(server.requests) == 10


def test_no_more_requests_are_under_way_than_settings_say(
    prompts: PromptSet, gallery: pl.DataFrame, tmp_path: Path
) -> None:
    together = threading.Barrier(3, timeout=60)

    def answer(request: dict[str, Any]) -> Reply:
        if width_of(request) < 11:
            together.wait()  # passes only where three are under way
        return said("a picture")

    with stand_in(answer) as server:
        made = described(server, prompts, gallery, tmp_path, concurrency=3)
    assert set(made["status"]) == {"ok"}
    assert server.most == 3


def test_a_busy_server_is_asked_again(prompts: PromptSet, gallery: pl.DataFrame, tmp_path: Path) -> None:
    failed = set()

    def answer(request: dict[str, Any]) -> Reply:
        width = width_of(request)
        if width not in failed:
            failed.add(width)
            return fault(500, "busy")
        return said("a picture")

    with stand_in(answer) as server:
        made = described(server, prompts, gallery.head(2), tmp_path)
    assert made["caption"].to_list() == ["a picture"] * 2
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [400, 500])
def test_a_refused_picture_costs_itself_alone(
    status: int, prompts: PromptSet, gallery: pl.DataFrame, tmp_path: Path
) -> None:
    def answer(request: dict[str, Any]) -> Reply:
        return fault(status, "too \x1b[2Jnarrow") if width_of(request) == 8 else said("a picture")

    with stand_in(answer) as server:
        made = described(server, prompts, gallery.head(3), tmp_path, retries=0)
    assert made["status"].to_list() == ["failed", "ok", "ok"]
    detail = made["detail"][0]
    assert str(status) in detail and "too \\u001b[2Jnarrow" in detail


def test_a_last_picture_that_always_fails_does_not_stop_a_run(
    prompts: PromptSet, gallery: pl.DataFrame, tmp_path: Path
) -> None:
    def answer(request: dict[str, Any]) -> Reply:
        return fault(500, "no") if "data:" in str(request) else said("yes")

    with stand_in(answer) as server:
        made = described(server, prompts, gallery.head(1), tmp_path, retries=0)
    assert made["status"].to_list() == ["failed"]


def test_a_picture_that_has_changed_is_not_sent(
    server: StandIn, prompts: PromptSet, gallery: pl.DataFrame, tmp_path: Path
) -> None:
    Image.new("RGB", (3, 3)).save(gallery["path"][0])
    made = described(server, prompts, gallery.head(2), tmp_path)
    assert made["status"].to_list() == ["failed", "ok"]
    assert len(server.requests) == 1


def test_an_answer_that_was_cut_off_is_given_and_a_refusal_is_not() -> None:
    prompt = asked("a question")
    with stand_in(lambda request: said("cut of", finish="length")) as server:
        assert model_of(server).answers_or_errors([prompt]) == ["cut of"]
    with stand_in(lambda request: said(None, refusal="I will not")) as server:
        (error,) = model_of(server).answers_or_errors([prompt])
    assert isinstance(error, RefusedTextError) and "I will not" in str(error)


def asked(text: str) -> Any:
    from setr_lib.models.multimodal import RenderedPrompt

    return RenderedPrompt((text,)), {}


ODD: dict[str, Reply] = {
    "not JSON": (200, {"Content-Type": "application/json"}, b"<html>"),
    "a list": (200, {"Content-Type": "application/json"}, b"[1, 2]"),
    "no choices": (200, {"Content-Type": "application/json"}, b'{"choices": []}'),
    "other choices": (200, {"Content-Type": "application/json"}, b'{"choices": [7]}'),
    "a text": (200, {"Content-Type": "text/plain"}, b"hello"),
    "huge": (200, {"Content-Type": "application/json"}, b" " * (9 << 20)),
    "a huge error": (400, {"Content-Type": "application/json"}, b"x" * (9 << 20)),
    "compressed": (200, {"Content-Type": "application/json", "Content-Encoding": "gzip"}, b"\x1f\x8b"),
    "redirect": (307, {"Location": "http://127.0.0.1:1/v1"}, b""),
    "no key": fault(401, f"{KEY} is wrong"),
    "forbidden": fault(403, "not for you"),
    "no model": fault(404, "the model `big` does not exist"),
    "too many": fault(429, "slow down"),
    "down": fault(503, "loading"),
    "broken": fault(500, "a bug"),
}
WORDS = {
    "huge": "8 MiB",
    "a huge error": "8 MiB",
    "compressed": "compressed",
    "redirect": "not followed",
    "no key": "does not take the key in MY_KEY",
    "forbidden": "403",
    "no model": "is its model called 'big'",
    "too many": "concurrency",
    "down": "503",
    "broken": "a bug",
}


@pytest.mark.parametrize("name", ODD)
def test_an_endpoint_that_cannot_be_used_stops_with_one_sentence(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with stand_in(lambda request: ODD[name]) as server:
        model = model_of(server, retries=0, key_variable="MY_KEY", concurrency=1)
        made = model.answers_or_errors([asked("one"), asked("two")])
    assert all(isinstance(error, EndpointError) for error in made)
    assert WORDS.get(name, "no response of an OpenAI-compatible server") in str(made[0])
    assert KEY not in str(made[0])
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}


def test_a_slow_body_and_a_silent_server_end_by_the_timeout() -> None:
    with stand_in(lambda request: said("slow"), slow=0.05) as server:
        (error,) = model_of(server, retries=0, timeout=0.4).answers_or_errors([asked("one")])
    assert isinstance(error, EndpointError) and "timeout" in str(error)
    wait = threading.Event()
    with stand_in(lambda request: said("x") if wait.wait(10) else said("y")) as server:
        (error,) = model_of(server, retries=0, timeout=0.2).answers_or_errors([asked("one")])
        wait.set()
    assert isinstance(error, EndpointError) and "0.2 s" in str(error)


def test_what_was_answered_before_a_server_went_down_is_kept(
    prompts: PromptSet, gallery: pl.DataFrame, tmp_path: Path
) -> None:
    answered: list[int] = []

    def answer(request: dict[str, Any]) -> Reply:
        if len(answered) >= 2:
            return fault(401, "expired")
        answered.append(width_of(request))
        return said("a picture")

    with stand_in(answer) as server, pytest.raises(EndpointError, match="wants a key"):
        described(server, prompts, gallery, tmp_path, concurrency=1)
    assert len(server.requests) == 3  # nothing more was sent
    with stand_in(lambda request: said("a picture")) as server:
        made = described(server, prompts, gallery, tmp_path, concurrency=1)
    assert set(made["status"]) == {"ok"}
    assert len(server.requests) == 3


def test_a_server_that_is_not_there_is_said(prompts: PromptSet) -> None:
    with stand_in(lambda request: said("x")) as server:
        pass
    (error,) = model_of(server, retries=0).answers_or_errors([asked("one")])
    assert isinstance(error, EndpointError) and "cannot be reached" in str(error)


def test_proxies_of_the_environment_see_no_plain_http(
    server: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    gallery: pl.DataFrame,
    prompts: PromptSet,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert set(described(server, prompts, gallery, tmp_path)["status"]) == {"ok"}


def test_an_unreadable_picture_is_an_error_of_its_own(gallery: pl.DataFrame) -> None:
    from setr_lib.models.multimodal import IMAGE, ImageSlot, Picture, RenderedPrompt

    gone = Picture("0" * 16, Path("/nowhere/x.png"))
    (error,) = model_of("http://127.0.0.1:1/v1").answers_or_errors(
        [(RenderedPrompt((ImageSlot(IMAGE),)), {IMAGE: gone})]
    )
    assert isinstance(error, PictureError)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('url = "http://example.org/v1"', "plain http"),
        ('url = "http://127.0.0.1.example.org/v1"', "plain http"),
        ('url = "http://0.0.0.0:8000/v1"', "plain http"),
        ('url = "ftp://127.0.0.1/v1"', "not an address"),
        ('url = "https://user:sk-secret@example.org/v1"', "address alone"),
        ('url = "https://example.org/v1?key=sk-secret"', "address alone"),
        ('url = "https://example.org/v1"\napi_key = "sk-secret"', "a key does not belong into settings"),
        ('url = "https://example.org/v1"\nkey_variable = "sk-secret"', "not the key itself"),
    ],
)
def test_unsafe_endpoints_and_keys_in_files_are_refused_without_repeating_them(
    lines: str, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "setr.toml"
    file.write_text(f"[models.judge.endpoint]\n{lines}\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(file)
    assert words in str(caught.value)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/v1",
        "http://127.8.9.1/v1",
        "http://[::1]:8000/v1",
        "http://localhost/v1",
        "https://example.org/v1/",
    ],
)
def test_an_address_alone_is_an_endpoint(url: str, tmp_path: Path) -> None:
    file = tmp_path / "setr.toml"
    file.write_text(f'[models.judge]\nendpoint = "{url}"\n')
    endpoint = load_settings(file).models.judge.endpoint
    assert endpoint.url == url.rstrip("/")
    assert endpoint.is_local == url.startswith("http:")


def test_a_key_whose_variable_is_not_set_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(EndpointError, match="MY_KEY"):
        model_of("http://127.0.0.1:1/v1", key_variable="MY_KEY")


@pytest.mark.parametrize(
    ("url", "status", "words"),
    [
        ("https://example.org/v1", "warning", "pictures LEAVE THIS MACHINE, to example.org"),
        ("http://127.0.0.1:8000/v1", "ok", "to 127.0.0.1:8000, on this machine"),
    ],
)
def test_doctor_says_who_writes_texts_and_where_pictures_go(
    url: str, status: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "setr.toml"
    file.write_text(f'[models.judge.endpoint]\nurl = "{url}"\nmodel = "big"\nkey_variable = "MY_KEY"\n')
    settings = load_settings(file)

    def check() -> Check:
        return next(check for check in configured(settings, set()) if check.what == "endpoint of texts")

    monkeypatch.delenv("MY_KEY", raising=False)
    assert check().status == "missing" and "MY_KEY" in check().detail
    monkeypatch.setenv("MY_KEY", KEY)
    assert check().status == status
    assert words in check().detail and "'big'" in check().detail
    assert pipeline_context(settings).models.writer().id == "openai-endpoint:big"


def test_pictures_go_elsewhere_only_by_a_settings_file_that_nobody_else_could_have_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "setr.toml"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SETR_CONFIG", raising=False)
    for url, is_taken in (("https://example.org/v1", False), ("http://127.0.0.1:1/v1", True)):
        file.write_text(f'[models.judge]\nendpoint = "{url}"\n')
        file.chmod(0o666)
        if is_taken:
            assert load_settings().models.judge.endpoint.url == url
        else:
            with pytest.raises(SettingsError, match="would send pictures there"):
                load_settings()
        assert load_settings(file).models.judge.endpoint.url == url
