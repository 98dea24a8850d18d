"""Answers of a multimodal LLM behind an OpenAI-compatible endpoint (vLLM's server, say), for generated texts.

It takes the place of :class:`MultimodalModel` where texts are generated, and nowhere else: a judge needs the
logits of Yes and No. Pictures are sent as ``data:`` URLs of their pixels, read by the same rules as for a
local model; no file, path or name is sent. Decoding is greedy (temperature 0).
"""

from __future__ import annotations

import base64
import io
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from setr_lib.errors import SetrError
from setr_lib.escaping import visible
from setr_lib.models.multimodal.errors import JudgeError, RefusedTextError, first_line
from setr_lib.models.multimodal.pictures import Picture, PictureError
from setr_lib.models.multimodal.prompt import ImageSlot, Request

if TYPE_CHECKING:
    from openai import OpenAI

    from setr_lib.settings import JudgeSettings

INSTALL = "pip install 'openai>=2.0'"
"""How the client's package comes here."""
_NO_KEY = "EMPTY"
"""What is sent as a key where none is named; servers without keys ignore it."""
_LARGEST_BODY = 8 << 20
"""Bytes of a response, at most."""
_LARGEST_PNG = 4 << 20
"""Bytes of a picture above which it is sent as JPEG."""
_JPEG_QUALITY = 95
_LONGEST_WORDS = 300
"""Characters of a server's words that are quoted."""
_REFUSED = (400, 413, 415, 422)
"""Statuses that say that this request is not taken, while others may be."""
_AHEAD = 4
"""Requests per batch, as a multiple of those that are under way at once."""


class EndpointError(JudgeError):
    """The endpoint cannot be used at all: it is down, refuses the key, or has no such model. Nothing more is
    sent; the message says what to do."""


class _UnclearError(JudgeError):
    """A request failed in a way that may be the request's fault or the server's."""


class EndpointModel:
    """The model of ``[models.judge.endpoint]``. Make it with :meth:`from_settings`.

    Args:
        judge: The settings section ``models.judge``, with an endpoint.
        client: The client of the package ``openai``, which follows no redirect.
        key: The API key, which no message repeats; empty for none.

    Attributes:
        id: What the model is called in tables and cache keys: ``openai-endpoint:`` and its name, so that its
            texts and those of a local model never mix.
        max_new_tokens: Tokens at most in a generated answer.
        batch_size: Requests that are handed over at a time: what a kill can cost.
    """

    def __init__(self, judge: JudgeSettings, client: OpenAI, key: str = "") -> None:
        endpoint = judge.endpoint
        self.name = endpoint.model or judge.name
        self.id = endpoint_id(judge)
        self.max_new_tokens = judge.max_new_tokens
        self.batch_size = _AHEAD * endpoint.concurrency
        self._endpoint, self._client, self._key = endpoint, client, key

    @classmethod
    def from_settings(cls, judge: JudgeSettings) -> EndpointModel:
        """The model that settings name; nothing is sent yet.

        Args:
            judge: The settings section ``models.judge``, with an endpoint.

        Returns:
            The model.

        Raises:
            EndpointError: The package ``openai`` is not installed, or the variable with the key is not set.
        """
        if problem := endpoint_problem(judge):
            raise EndpointError(f"[models.judge.endpoint] {problem}")
        from openai import DefaultHttpxClient, OpenAI

        endpoint = judge.endpoint
        key = os.environ[endpoint.key_variable].strip() if endpoint.key_variable else ""
        guard = _Guard(endpoint.timeout)
        client = OpenAI(
            base_url=endpoint.url,
            api_key=key or _NO_KEY,
            max_retries=endpoint.retries,
            timeout=endpoint.timeout,
            default_headers={"Accept-Encoding": "identity"},
            http_client=DefaultHttpxClient(
                follow_redirects=False,
                # A proxy is asked for what is encrypted alone: plain http stays on this machine.
                trust_env=str(endpoint.url).startswith("https:"),
                event_hooks={"response": [guard]},
            ),
        )
        return cls(judge, client, key)

    def answers_or_errors(
        self, requests: Sequence[Request], max_new_tokens: int | None = None
    ) -> list[str | SetrError]:
        """The answers to requests, several under way at once; one that fails costs itself alone.

        An answer that was cut off at the limit on tokens is given as it is, as a local model's is.

        Args:
            requests: Prompts with their pictures.
            max_new_tokens: Tokens at most in each answer, in place of the model's own limit.

        Returns:
            An answer for each; the error in its place where the picture cannot be read, or the server refuses
            the request; ``EndpointError`` in the place of those that were not answered because the endpoint
            cannot be used.
        """
        stop = _Stop()
        limit = max_new_tokens or self.max_new_tokens

        def ask(request: Request) -> str | SetrError:
            if stop.error is not None:
                return stop.error
            try:
                return self._answer(_messages(request), limit)
            except EndpointError as error:
                return stop.now(error)
            except (PictureError, JudgeError) as error:
                return error

        with ThreadPoolExecutor(max_workers=self._endpoint.concurrency) as pool:
            try:
                made = list(pool.map(ask, requests))
            except BaseException:  # Ctrl-C: what waits is not sent
                stop.now(EndpointError("interrupted"))
                raise
        unclear = next((answer for answer in made if isinstance(answer, _UnclearError)), None)
        is_answering = unclear is None or any(isinstance(answer, str) for answer in made)
        if is_answering or (broken := self._broken()) is None:
            return made
        fatal = EndpointError(f"{unclear}; {broken}")
        return [fatal if isinstance(answer, _UnclearError) else answer for answer in made]

    def _broken(self) -> str | None:
        """What is wrong with the server, where it does not answer to anything."""
        try:
            self._answer([{"role": "user", "content": "Say yes."}], 1)
        except JudgeError as error:
            return f"nor does it answer a plain text ({error})"
        return None

    def _answer(self, messages: list[Any], limit: int) -> str:
        import openai

        try:
            response = self._client.chat.completions.create(
                model=self.name, messages=messages, temperature=0, max_tokens=limit
            )
        except openai.APIStatusError as error:
            raise self._status_error(error) from None
        except openai.APITimeoutError:
            raise _UnclearError(
                f"{self._where} has not answered within {self._endpoint.timeout:g} s "
                "([models.judge.endpoint] timeout)"
            ) from None
        except openai.APIConnectionError as error:
            reason = error.__cause__ or error
            if isinstance(found := _odd_body(reason), _OddBodyError):
                raise _UnclearError(f"{self._where}: {found}") from None
            raise EndpointError(
                f"{self._where} cannot be reached ({self._quoted(first_line(reason))}): start the server, or "
                "change [models.judge.endpoint] url; what was answered is kept"
            ) from None
        except _OddBodyError as error:
            raise _UnclearError(f"{self._where}: {error}") from None
        except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
            raise _UnclearError(self._not_understood(first_line(error))) from None
        return self._text(response)

    def _text(self, response: Any) -> str:
        """The text of a response, which may be anything that a server sends."""
        choices = getattr(response, "choices", None)
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = getattr(choice, "message", None)
        if message is None:
            raise _UnclearError(self._not_understood("it has no choices"))
        content = getattr(message, "content", None)
        if isinstance(content, str):
            return content.strip()
        refusal = getattr(message, "refusal", None) or getattr(choice, "finish_reason", None)
        raise RefusedTextError(
            f"the model {self.name} gave no text ({self._quoted(str(refusal or 'no reason given'))})"
        )

    def _status_error(self, error: Any) -> JudgeError:
        status, said = int(error.status_code), self._quoted(_words(error))
        told = f"{self._where} answers {status}: {said}"
        if status in _REFUSED:
            return RefusedTextError(f"the endpoint refuses the request ({status}): {said}")
        if status in (401, 403):
            how = (
                f"it does not take the key in {self._endpoint.key_variable}"
                if self._endpoint.key_variable
                else "it wants a key: put it into an environment variable, and name that in "
                "[models.judge.endpoint] key_variable"
            )
            return EndpointError(f"{told}; {how}")
        if 300 <= status < 400:
            return EndpointError(
                f"{self._where} redirects elsewhere ({status}), which is not followed: write the address "
                "that answers itself into [models.judge.endpoint] url"
            )
        if status == 404:
            return EndpointError(
                f"{told}; is its model called {self.name!r} ([models.judge.endpoint] model), and does url "
                "end as the server says, with /v1?"
            )
        if status == 429:
            return EndpointError(
                f"{told}; ask less at once ([models.judge.endpoint] concurrency), or go on later: what was "
                "answered is kept"
            )
        if status in (502, 503, 504):
            return EndpointError(f"{told}; the server is down or starting: what was answered is kept")
        return _UnclearError(told)

    def _not_understood(self, reason: str) -> str:
        return (
            f"{self._where} answers what is no response of an OpenAI-compatible server "
            f"({self._quoted(reason)})"
        )

    def _quoted(self, words: str) -> str:
        """A server's words as they may be shown: on one line, short, without the key."""
        if self._key:
            words = words.replace(self._key, "(the key)")
        line = visible(" ".join(words.split()))
        return line if len(line) <= _LONGEST_WORDS else f"{line[:_LONGEST_WORDS]}..."

    @property
    def _where(self) -> str:
        return f"the endpoint {self._endpoint.url}"


def endpoint_id(judge: JudgeSettings) -> str:
    """What the model of an endpoint is called in tables and cache keys.

    Args:
        judge: The settings section ``models.judge``.

    Returns:
        The id.
    """
    return f"openai-endpoint:{judge.endpoint.model or judge.name}"


def endpoint_host(judge: JudgeSettings) -> str:
    """The host that pictures are sent to, with its port.

    Args:
        judge: The settings section ``models.judge``, with an endpoint.

    Returns:
        The host.
    """
    return urlsplit(str(judge.endpoint.url)).netloc


def endpoint_problem(judge: JudgeSettings) -> str | None:
    """What is missing here for an endpoint to be asked; nothing is sent.

    Args:
        judge: The settings section ``models.judge``, with an endpoint.

    Returns:
        What is missing, in words; None where nothing is.
    """
    if find_spec("openai") is None:
        return f"needs the package openai: {INSTALL}"
    variable = judge.endpoint.key_variable
    if variable and not os.environ.get(variable, "").strip():
        return f"names the environment variable {variable} for its key, which is not set"
    return None


class _Stop:
    """The first error that ends all requests."""

    def __init__(self) -> None:
        self.error: EndpointError | None = None
        self._lock = threading.Lock()

    def now(self, error: EndpointError) -> EndpointError:
        with self._lock:
            self.error = self.error or error
            return self.error


class _OddBodyError(Exception):
    """A response's body is not taken; the message says why."""


class _Guard:
    """Bounds every response, before its body is read: its bytes, and the time for all of it.

    Args:
        seconds: For a body, at most.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, response: Any) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise _OddBodyError("its response is compressed, which was not asked for")
        base = import_module(type(response).__module__.partition(".")[0]).SyncByteStream
        stream, ends = response.stream, time.monotonic() + self._seconds

        class Bounded(base):
            def __iter__(self) -> Iterator[bytes]:
                read = 0
                for chunk in stream:
                    read += len(chunk)
                    if read > _LARGEST_BODY:
                        raise _OddBodyError(f"its response has more than {_LARGEST_BODY >> 20} MiB")
                    if time.monotonic() > ends:
                        raise _OddBodyError("its response takes longer than [models.judge.endpoint] timeout")
                    yield chunk

            def close(self) -> None:
                stream.close()

        response.stream = Bounded()


def _odd_body(error: BaseException | None) -> BaseException | None:
    """The error of :class:`_Guard` behind one of the client's."""
    while error is not None and not isinstance(error, _OddBodyError):
        error = error.__cause__ or error.__context__
    return error


def _words(error: Any) -> str:
    """What a server says of an error, in its protocol's field or as plain text."""
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else body
    said = inner.get("message") if isinstance(inner, dict) else inner
    return str(said or getattr(error, "message", "") or error)


def _messages(request: Request) -> list[Any]:
    """A prompt and its pictures as the messages of a chat.

    Raises:
        PictureError: A picture cannot be read.
    """
    prompt, pictures = request
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": _data_url(pictures[part.name])}}
        if isinstance(part, ImageSlot)
        else {"type": "text", "text": part}
        for part in prompt.parts
    ]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    return [{"role": "system", "content": prompt.system}, *messages] if prompt.system else messages


def _data_url(picture: Picture) -> str:
    """A picture's pixels as PNG, or as JPEG where that is large, in a ``data:`` URL."""
    image = picture.open()
    file, kind = io.BytesIO(), "png"
    try:
        image.save(file, format="PNG")
        if file.tell() > _LARGEST_PNG:
            file, kind = io.BytesIO(), "jpeg"
            image.save(file, format="JPEG", quality=_JPEG_QUALITY)
    except (OSError, ValueError) as error:  # sides that JPEG does not take
        raise PictureError(f"{picture.name}: cannot be encoded to be sent ({first_line(error)})") from error
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
