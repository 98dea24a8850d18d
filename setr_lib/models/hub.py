"""Loading a model that may have to be downloaded: from this machine where it is here, else after one quick
question whether the hub answers at all.

The libraries that download (huggingface_hub under transformers, sentence-transformers and open_clip) try each
file again and again where there is no network. So nothing is left to them before it is known that they can
succeed; where they cannot, one error says what is missing and how to get it here.
"""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from setr_lib.errors import SetrError
from setr_lib.models.hub_cache import Download, Repository, Source, endpoint, hub_cache, is_offline

Loaded = TypeVar("Loaded")

PROBE_SECONDS = 4.0
"""How long the hub has to answer."""
_SILENCE_HOLDS = 60.0
"""Seconds for which an address that did not answer is not asked again by this process."""
_MOST_READ = 2**22
_PROXY_REFUSES = 407
_SERVER_ERRORS = 500
_SILENT: dict[str, tuple[float, str]] = {}
_LOADING = threading.RLock()
"""One model at a time: what the libraries are told about the network holds for the whole process."""


@dataclass(frozen=True)
class Answer:
    """What came of asking whether something can be downloaded.

    Attributes:
        reached: Whether a server answered, be it that it refuses this model.
        reason: Why not, in words; empty where it did.
        bytes: Bytes that are to be downloaded; None where the answer does not say.
    """

    reached: bool
    reason: str = ""
    bytes: int | None = None


def load_from_hub(
    sources: Sequence[Source],
    load: Callable[[], Loaded],
    *,
    kind: type[SetrError],
    what: str,
    remedy: str,
) -> Loaded:
    """Load a model, downloading only where that can succeed.

    What is here as a whole is loaded without asking the hub for a newer version: ``hf download`` brings one.

    Args:
        sources: What it is downloaded from; none for a local folder.
        load: Loads it; called again after a first try from the cache alone failed and the hub answers.
        kind: The error to raise.
        what: What it is, as messages name it, e.g. ``models.judge.name = 'Qwen/...'``.
        remedy: How settings name a local folder instead, e.g. ``[models.judge] name = "FOLDER"``.

    Returns:
        What ``load`` gave.

    Raises:
        SetrError: An error of ``kind``: it is not here and cannot be downloaded. What ``load`` raises
            otherwise is not caught.
    """
    missing = [source for source in sources if not source.is_here]
    with _LOADING:
        if not sources:
            return load()
        failed: Exception | None = None
        if not missing and not is_offline():
            try:
                with _offline():
                    return load()
            except (OSError, ValueError, RuntimeError) as error:
                failed = error  # perhaps a file is lacking that was not looked for
        answer = Answer(False, "") if is_offline() else probe((missing or list(sources))[0])
        if answer.reached:
            return load()
        if failed is not None:
            raise failed
        if not all(source.is_begun for source in missing):
            raise kind(f"{what}: {not_here(missing, answer, remedy)}")
        try:  # weights may be here in a form that was not looked for
            with _offline():
                return load()
        except SetrError:
            raise
        except Exception as error:
            if not missing:
                raise
            raise kind(f"{what}: {not_here(missing, answer, remedy)}") from error


def not_here(missing: Sequence[Source], answer: Answer, remedy: str) -> str:
    """That something is not on this machine and cannot be downloaded, and what to do, in one sentence each.

    Args:
        missing: What is not here.
        answer: What came of asking for it; ``reason`` is empty where nothing was asked (``HF_HUB_OFFLINE``).
        remedy: How settings name a local folder instead.

    Returns:
        The words, on one line.
    """
    named = " and ".join(source.name + _size(source) for source in missing)
    looked = {
        str(source.file.parent) if isinstance(source, Download) else str(hub_cache()) for source in missing
    }
    why = (
        f"{_server(missing[0])} cannot be reached ({answer.reason})"
        if answer.reason
        else "HF_HUB_OFFLINE=1 forbids downloads"
    )
    help_with_network = (
        ". A mirror is named by HF_ENDPOINT, a proxy by HTTPS_PROXY; HF_HUB_OFFLINE=1 keeps SETR from asking "
        "the network"
    )
    return (
        f"{named} is not on this machine (looked in {' and '.join(sorted(looked))}), and {why}"
        f"{_whole_ids(missing)}. Where there is a network, {_commands(missing, remedy)}"
        f"{help_with_network if answer.reason else ''}"
    )


def _whole_ids(missing: Sequence[Source]) -> str:
    """That most models of the hub are named with their organisation, where one is named without."""
    short = [source.id for source in missing if isinstance(source, Repository) and "/" not in source.id]
    return f". Is {short[0]!r} the whole id? Most are ORGANISATION/NAME" if short else ""


def _commands(missing: Sequence[Source], remedy: str) -> str:
    downloads = [source for source in missing if isinstance(source, Download)]
    if downloads:
        return f"fetch {downloads[0].address} and put the file into {downloads[0].file.parent} here"
    repositories = [source for source in missing if isinstance(source, Repository)]
    fetch = " and ".join(f"`hf download {each.id}{_at(each)} --cache-dir FOLDER`" for each in repositories)
    folders = " and ".join(f"FOLDER/{each.folder.name}" for each in repositories)
    words = f"run {fetch} and copy {folders} into {hub_cache()} here"
    whole = [each for each in repositories if each.part == "weights"]
    if whole and remedy:
        words += f", or `hf download {whole[0].id}{_at(whole[0])} --local-dir FOLDER` and write {remedy}"
    return words


def _at(repository: Repository) -> str:
    return f" --revision {repository.revision}" if repository.revision else ""


def _size(source: Source) -> str:
    guess = source.guessed_bytes
    return f" (about {guess / 1e9:.1f} GB)" if guess else ""


def _server(source: Source) -> str:
    """The address without its path: ``https://huggingface.co``."""
    return endpoint() if isinstance(source, Repository) else "/".join(source.address.split("/")[:3])


def probe(source: Source) -> Answer:
    """Ask once whether something can be downloaded; environment variables name proxies.

    Any answer of a server counts, be it that it refuses this model: the library that downloads says that
    better. An address that was silent is not asked again for a minute.

    Args:
        source: What is to be downloaded.

    Returns:
        Whether a server answered within :data:`PROBE_SECONDS`, else why not.
    """
    server = _server(source)
    silent_since, reason = _SILENT.get(server, (0.0, ""))
    if reason and time.monotonic() - silent_since < _SILENCE_HOLDS:
        return Answer(False, reason)
    answers: list[Answer] = []
    # A thread: looking up a name takes as long as the system likes, whatever the timeout of the connection.
    asking = threading.Thread(target=lambda: answers.append(_ask(source)), name="setr-hub-probe", daemon=True)
    asking.start()
    asking.join(PROBE_SECONDS + 0.5)
    answer = answers[0] if answers else Answer(False, _no_answer())
    if answer.reached:
        _SILENT.pop(server, None)
    else:
        _SILENT[server] = (time.monotonic(), answer.reason)
    return answer


def _ask(source: Source) -> Answer:
    is_repository = isinstance(source, Repository)
    request = urllib.request.Request(  # noqa: S310 - the hub's own address, or open_clip's
        source.address, method="GET" if is_repository else "HEAD", headers={"User-Agent": "setr"}
    )
    try:
        # An opener of its own: the common one keeps the proxies of its first use.
        with urllib.request.build_opener().open(request, timeout=PROBE_SECONDS) as response:
            if not is_repository:
                length = response.headers.get("Content-Length")
                return Answer(True, bytes=int(length) if length else None)
            return Answer(True, bytes=source.bytes_of(response.read(_MOST_READ)))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == _PROXY_REFUSES or error.code >= _SERVER_ERRORS:
            return Answer(False, f"it answered {error.code} {error.reason}")
        return Answer(True)
    except TimeoutError:
        return Answer(False, _no_answer())
    except urllib.error.URLError as error:
        timed_out = isinstance(error.reason, TimeoutError)
        return Answer(False, _no_answer() if timed_out else str(error.reason))
    except (OSError, ValueError) as error:
        return Answer(False, str(error) or type(error).__name__)


def _no_answer() -> str:
    return f"no answer within {PROBE_SECONDS:g} seconds"


def free_bytes(folder: Path) -> int | None:
    """Bytes that are free where a folder is, or will be.

    Args:
        folder: The folder, which need not exist.

    Returns:
        Bytes; None where the system does not say.
    """
    import shutil

    for existing in (folder, *folder.parents):
        try:
            return shutil.disk_usage(existing).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None


@contextmanager
def _offline() -> Iterator[None]:
    """Have the hub's library look into its cache alone, as with ``HF_HUB_OFFLINE=1``."""
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
