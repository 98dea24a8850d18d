"""Models that may have to be downloaded: taken from the cache without a question, else one question, and one
error where nobody answers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import setr_lib.miniature
from setr_lib.errors import SetrError
from setr_lib.models import hub
from setr_lib.models.hub import Answer, load_from_hub, probe
from setr_lib.models.hub_cache import Download, Repository, hub_cache, transformers_sources
from setr_lib.settings import EncoderSettings, JudgeSettings
from tests.hub_stand_in import closed_port, silent, stand_in, use_hub

WEIGHTS = Path(setr_lib.miniature.__file__).parent / "weights"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "someone/Model-2B-Instruct"
FILES = {"config.json": 10, "model.safetensors": 700, "model.bin": 900, "training_args.bin": 5}


class LoadError(SetrError):
    """What a loader is to raise here."""


class Loader:
    """Counts how often it is called, and whether the hub's library was offline; fails as often as told."""

    def __init__(self, fails: int = 0, error: Exception | None = None) -> None:
        self.offline: list[bool] = []
        self.fails, self.error = fails, error or OSError("not in the cache")

    def __call__(self) -> str:
        self.offline.append(constants.HF_HUB_OFFLINE)
        if len(self.offline) <= self.fails:
            raise self.error
        return "model"


def load(loader: Callable[[], str], *names: str) -> str:
    sources = [source for name in names or (MODEL,) for source in transformers_sources(name)]
    return load_from_hub(
        sources, loader, kind=LoadError, what="models.judge.name", remedy='[models.judge] name = "FOLDER"'
    )


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's library as in a process that was started without ``HF_HUB_OFFLINE``."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    use_hub(monkeypatch, closed_port(), tmp_path / "hf")


def cached(model: str = MODEL, files: tuple[str, ...] = ("config.json", "model.safetensors")) -> Path:
    """A model in the cache, as the hub's library lays it out; its snapshot, which is made with its files."""
    folder = hub_cache() / f"models--{model.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    for name in files:
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_bytes(b"1234")
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    return snapshot


def test_where_nobody_answers_one_error_says_what_is_missing_and_how_to_get_it() -> None:
    loader = Loader(fails=9)
    with pytest.raises(LoadError) as told:
        load(loader)
    assert loader.offline == [], "nothing is here, so the library has nothing to do"
    words = str(told.value)
    assert "\n" not in words
    assert words.startswith(f"models.judge.name: {MODEL} (about 4.0 GB) is not on this machine")
    assert str(hub_cache()) in words and "http://127.0.0.1:" in words
    for part in (f"hf download {MODEL} ", "models--someone--Model-2B-Instruct", "HF_HUB_OFFLINE=1"):
        assert part in words
    assert '[models.judge] name = "FOLDER"' in words and "HF_ENDPOINT" in words and "HTTPS_PROXY" in words


def test_a_name_without_an_organisation_is_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadError) as told:
        load(Loader(fails=9), "Model-2B-Instruct")
    assert "Is 'Model-2B-Instruct' the whole id? Most are ORGANISATION/NAME" in str(told.value)
    assert "HF_ENDPOINT" in str(told.value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(LoadError) as told:
        load(Loader(fails=9))
    assert "whole id" not in str(told.value)
    assert "HF_ENDPOINT" not in str(told.value), "nobody was asked"


def test_a_hub_that_never_answers_is_asked_once_for_all_models(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.2)
    with silent() as (address, taken):
        use_hub(monkeypatch, address, tmp_path)
        for name in (MODEL, "someone/another"):
            with pytest.raises(LoadError, match=r"no answer within 0\.2 seconds"):
                load(Loader(fails=9), name)
        assert len(taken) == 1


def test_where_the_hub_answers_the_library_downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with stand_in() as server:
        use_hub(monkeypatch, server.address, tmp_path)
        loader = Loader()
        assert load(loader) == "model"
        assert loader.offline == [False]
        assert server.asked == [f"/api/models/{MODEL}/revision/main?blobs=true"]


@pytest.mark.parametrize(("status", "reached"), [(404, True), (401, True), (407, False), (503, False)])
def test_a_model_that_is_refused_is_the_library_s_to_tell_and_a_gateway_s_error_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, reached: bool
) -> None:
    with stand_in(status) as server:
        use_hub(monkeypatch, server.address, tmp_path)
        answer = probe(Repository(MODEL))
    assert answer.reached is reached and (str(status) in answer.reason) is not reached


def test_with_hf_hub_offline_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with stand_in() as server:
        use_hub(monkeypatch, server.address, tmp_path)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(LoadError, match="HF_HUB_OFFLINE=1 forbids downloads"):
            load(Loader())
        cached(files=("config.json", "consolidated.gguf"))
        loader = Loader()
        assert load(loader) == "model", "weights in a form that was not looked for"
        assert loader.offline == [True]
        with pytest.raises(LoadError, match="HF_HUB_OFFLINE=1 forbids downloads"):
            load(Loader(fails=9))
        assert server.asked == []


def test_what_is_in_the_cache_is_loaded_without_a_question(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with stand_in() as server:
        use_hub(monkeypatch, server.address, tmp_path)
        cached()
        loader = Loader()
        assert load(loader) == "model"
        assert loader.offline == [True] and server.asked == []
        assert constants.HF_HUB_OFFLINE is False, "set back"


def test_a_cache_that_lacks_a_file_after_all_is_completed_where_the_hub_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with stand_in() as server:
        use_hub(monkeypatch, server.address, tmp_path)
        cached()
        loader = Loader(fails=1)
        assert load(loader) == "model"
        assert loader.offline == [True, False] and len(server.asked) == 1
    use_hub(monkeypatch, closed_port(), tmp_path)
    with pytest.raises(OSError, match="not in the cache"):
        load(Loader(fails=9))


def test_a_fault_of_the_loader_itself_is_its_own_to_tell() -> None:
    cached()
    with pytest.raises(KeyError):
        load(Loader(fails=1, error=KeyError("architecture")))
    assert load_from_hub([], Loader(), kind=LoadError, what="", remedy="") == "model"


def test_a_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with stand_in() as proxy:
        use_hub(monkeypatch, "http://hub.invalid", tmp_path)
        monkeypatch.setenv("http_proxy", proxy.address)
        monkeypatch.setenv("no_proxy", "")
        assert probe(Repository(MODEL)).reached
        assert proxy.asked == [f"http://hub.invalid/api/models/{MODEL}/revision/main?blobs=true"]


def test_an_address_that_came_back_is_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with stand_in(503) as server:
        use_hub(monkeypatch, server.address, tmp_path)
        clock = [1000.0]
        monkeypatch.setattr(hub.time, "monotonic", lambda: clock[0])
        for passed, asked in ((0, 1), (50, 1), (100, 2)):
            clock[0] = 1000.0 + passed
            assert not probe(Repository(MODEL)).reached
            assert len(server.asked) == asked


def test_shards_of_an_index_must_all_be_here() -> None:
    assert not Repository(MODEL).is_here
    snapshot = cached(files=("config.json", "model-00001-of-00002.safetensors"))
    assert not Repository(MODEL).is_here, "a shard alone is not a model"
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert not Repository(MODEL).is_here
    (snapshot / shards["b"]).write_bytes(b"123456")
    assert Repository(MODEL).is_here and Repository(MODEL).bytes_here == 4 + 6
    assert not Repository(MODEL, "other-branch").is_here
    assert Repository(MODEL, COMMIT).is_here, "a revision may be the commit itself"


def test_parts_of_a_repository_are_looked_for_alone() -> None:
    cached(files=("tokenizer.json",))
    assert Repository(MODEL, part="tokenizer").is_here
    assert not Repository(MODEL, part="config").is_here and not Repository(MODEL).is_here
    cached("laion/clip", ("open_clip_model.safetensors",))
    assert Repository("laion/clip", file="open_clip_pytorch_model.bin").is_here
    assert not Repository("laion/clip", file="other.bin").is_here


def test_the_size_of_a_download_is_that_of_the_files_that_are_loaded() -> None:
    answer = json.dumps({"siblings": [{"rfilename": k, "size": v} for k, v in FILES.items()]}).encode()
    assert Repository(MODEL).bytes_of(answer) == 700, "one format, and no optimiser's state"
    assert Repository(MODEL, file="model.bin").bytes_of(answer) == 700
    assert Repository(MODEL, part="tokenizer").bytes_of(answer) == 0
    assert Repository(MODEL).bytes_of(b"<html>") is None
    assert Repository("Qwen/Qwen2.5-VL-7B-Instruct").guessed_bytes == 14_000_000_000
    assert Repository("Salesforce/blip2-itm-vit-g").guessed_bytes is None


def test_a_file_outside_of_the_hub_is_asked_for_its_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with stand_in() as server:
        source = Download(f"{server.address}/clip/weights.pt")
        assert not source.is_here and probe(source) == Answer(True)
        assert server.asked == ["/clip/weights.pt"]
    source.file.parent.mkdir(parents=True)
    source.file.write_bytes(b"12345")
    assert source.is_here and source.bytes_here == 5


@pytest.mark.parametrize("loader", ["judge", "encoder", "hub encoder", "blip2", "sentences"])
def test_every_loader_asks_once_and_tells_it_in_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loader: str
) -> None:
    with stand_in(503) as server:
        use_hub(monkeypatch, server.address, tmp_path)
        with pytest.raises(SetrError, match=r"is not on this machine .* cannot be reached \(it answered 503"):
            LOADERS[loader]()
        assert len(server.asked) == 1


def test_a_whole_cache_loads_in_full_without_a_connection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from setr_lib.models.multimodal import MultimodalModel

    with silent() as (address, taken):
        use_hub(monkeypatch, address, tmp_path)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub_cache()))
        folders = (("someone/judge", "mllm"), ("someone/clip", "clip"), ("someone/tokens", "clip"))
        for model, weights in folders:
            shutil.copytree(WEIGHTS / weights, cached(model, ()))
        absent = Repository("someone/tokens").folder / ".no_exist" / COMMIT
        absent.mkdir(parents=True)
        (absent / "config.json").touch()  # as the library notes what a repository does not have
        described = (Repository("someone/clip").snapshot or Path()) / "open_clip_config.json"
        config = json.loads(described.read_text())
        config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "someone/tokens"
        described.write_text(json.dumps(config))
        judge = MultimodalModel.load(JudgeSettings(name="someone/judge"), device="cpu")
        assert judge.id == f"someone/judge@{COMMIT[:12]}/float32"
        assert _encoder("hf-hub:someone/clip", None).id.startswith("hf-hub:someone/clip@")
        assert taken == []


def _judge() -> Any:
    from setr_lib.models.multimodal import MultimodalModel

    return MultimodalModel.load(JudgeSettings(name="nobody/has-this-model"), device="cpu")


def _encoder(name: str, pretrained: str | None) -> Any:
    from setr_lib.spaces.open_clip_space import OpenClipSpace

    return OpenClipSpace.load(EncoderSettings(name=name, pretrained=pretrained), "cpu")


def _blip2() -> Any:
    from setr_lib.spaces.blip2_space import load_space

    return load_space(device="cpu", name="nobody/has-this-model")


def _sentences() -> Any:
    from setr_lib.spaces.sentence_space import load_space

    pytest.importorskip("sentence_transformers")
    return load_space(device="cpu", model="nobody/has-this-model")


LOADERS: dict[str, Callable[[], Any]] = {
    "judge": _judge,
    "encoder": lambda: _encoder("ViT-B-32", "laion2b_s34b_b79k"),
    "hub encoder": lambda: _encoder("hf-hub:nobody/has-this-model", None),
    "blip2": _blip2,
    "sentences": _sentences,
}
