"""What ``setr doctor`` says of models before a run: which are here, which can be downloaded and how much that
is, whether there is room, and whether the device computes what is asked of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from setr_lib.cli import main
from setr_lib.commands import model_checks, setup_checks
from setr_lib.commands.check import Check
from setr_lib.models.hub_cache import hub_cache
from setr_lib.settings import load_settings
from setr_lib.spaces.open_clip_config import download_sources, weight_bytes
from tests.hub_stand_in import closed_port, stand_in, use_hub

ENCODER = 'encoder.name = "ViT-L-14"\nencoder.pretrained = "laion2b_s32b_b82k"\n'
JUDGE = 'judge.name = "someone/Model-2B"\njudge.prompts = "standard"\n'
FILES = {"open_clip_model.safetensors": 1_700_000_000, "config.json": 10, "model.safetensors": 4_300_000_000}


def checks(folder: Path, models: str = ENCODER + JUDGE, more: str = "") -> dict[str, Check]:
    (folder / "setr.toml").write_text(f'[models]\ndevice = "cpu"\n{models}\n{more}')
    settings = load_settings(folder / "setr.toml")
    return {check.what: check for check in setup_checks.configured(settings, set())}


def test_what_can_be_downloaded_is_for_later_with_its_size_and_the_room_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with stand_in(sizes=FILES) as server:
        use_hub(monkeypatch, server.address, tmp_path / "hf")
        found = checks(tmp_path)
        assert (found["encoder"].status, found["multimodal LLM"].status) == ("later", "later")
        assert found["encoder"].bytes_to_come == 1_700_000_000
        assert "1.7 GB" in found["encoder"].detail and server.address in found["encoder"].detail
        assert len(server.asked) == 2, "one question for each model"
        room = found["cache of models"]
        assert room.status == "ok" and room.value == str(hub_cache())
        assert "0 B here, 7.7 GB to download" in room.detail and "free there" in room.detail
        monkeypatch.setattr(model_checks, "free_bytes", lambda folder: 7_699_000_000)
        room = checks(tmp_path)["cache of models"]
        assert room.status == "missing" and "make room" in room.detail


def test_what_cannot_be_downloaded_is_missing_before_a_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use_hub(monkeypatch, closed_port(), tmp_path / "hf")
    found = checks(tmp_path)
    for what, name in (("encoder", "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"), ("multimodal LLM", "someone/")):
        assert found[what].status == "missing" and f"hf download {name}" in found[what].detail
    assert "(about 1.7 GB)" in found["encoder"].detail, "by its architecture"
    assert "(about 4.0 GB)" in found["multimodal LLM"].detail, "by the number in its name"
    assert main(["--config", str(tmp_path / "setr.toml"), "doctor", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    told = {each["what"]: each for each in document["configured"]}
    assert told["multimodal LLM"]["bytes_to_come"] == 4_000_000_000
    assert any("hf download" in problem for problem in document["problems"])


def test_a_long_fault_is_told_once_on_the_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use_hub(monkeypatch, closed_port(), tmp_path / "hf")
    monkeypatch.setenv("COLUMNS", "4000")
    (tmp_path / "setr.toml").write_text(f'[models]\ndevice = "cpu"\n{ENCODER}{JUDGE}')
    assert main(["--config", str(tmp_path / "setr.toml"), "doctor"]) == 1
    page = capsys.readouterr().out
    assert page.count("run `hf download someone/Model-2B --cache-dir") == 1
    assert page.count("what to do stands at the end") == 2
    assert page.index("what to do stands at the end") < page.index("hf download")


def test_a_server_of_mlflow_is_asked_unless_it_is_to_be_quick(tmp_path: Path) -> None:
    (tmp_path / "setr.toml").write_text(f'[registry]\ntracking_uri = "{closed_port()}"\n')
    settings = load_settings(tmp_path / "setr.toml")
    said = {quick: setup_checks._registry(settings, quick=quick) for quick in (True, False)}
    assert (said[True].status, said[True].detail) == ("ok", "not contacted")
    assert said[False].status == "missing" and "does not answer" in said[False].detail


def test_weights_in_the_cache_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with stand_in() as server:
        use_hub(monkeypatch, server.address, tmp_path / "hf")
        for model, files in (
            ("laion/CLIP-ViT-L-14-laion2B-s32B-b82K", {"open_clip_model.safetensors": 3000}),
            ("someone/Model-2B", {"config.json": 7, "model.safetensors": 4000}),
        ):
            folder = hub_cache() / f"models--{model.replace('/', '--')}"
            (folder / "refs").mkdir(parents=True)
            (folder / "refs" / "main").write_text("c0ffee")
            (folder / "snapshots" / "c0ffee").mkdir(parents=True)
            for name, size in files.items():
                (folder / "snapshots" / "c0ffee" / name).write_bytes(bytes(size))
        found = checks(tmp_path)
        assert found["encoder"].status == "ok"
        assert found["multimodal LLM"].status == "broken", "zeros are no model"
        assert (found["encoder"].bytes_here, found["multimodal LLM"].bytes_here) == (3000, 4000)
        assert found["cache of models"].detail.startswith("7 KB here, 0 B to download")
        assert server.asked == []


def test_a_model_that_nothing_asks_is_no_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_hub(monkeypatch, closed_port(), tmp_path / "hf")
    plain = '[coarse]\nstrategies = ["image"]\ndefault = "image"\n[reranking]\nrerankers = []\n'
    assert checks(tmp_path, more=plain)["multimodal LLM"].status == "warning"
    assert checks(tmp_path, more=plain.replace("image", "intersection"))["multimodal LLM"].status == "missing"


@pytest.mark.parametrize(
    ("name", "tag", "words"),
    [
        ("ViT-L-14", "laion2b_s34b_b82k", "did you mean laion2b_s32b_b82k?"),
        ("ViT-B-32", "openai-", "did you mean openai?"),
        ("ViT-L-14", "zzz", "; there is openai, laion400m_e31, "),
        ("ViT-M-16", "openai", "no tag that open_clip has of ViT-M-16, which has none"),
    ],
)
def test_a_tag_is_held_against_open_clip_s_own(tmp_path: Path, name: str, tag: str, words: str) -> None:
    found = checks(tmp_path, f'encoder.name = "{name}"\nencoder.pretrained = "{tag}"\n{JUDGE}')["encoder"]
    assert found.status == "broken" and words in found.detail


def test_a_tag_may_be_written_with_hyphens_and_a_file_is_a_file(tmp_path: Path) -> None:
    found = checks(tmp_path, ENCODER.replace("laion2b_s32b_b82k", "laion2b-s32b-b82k") + JUDGE)["encoder"]
    assert found.status == "missing" and "forbids downloads" in found.detail
    (tmp_path / "weights.pt").write_bytes(b"1")
    assert (
        checks(tmp_path, ENCODER.replace("laion2b_s32b_b82k", str(tmp_path / "weights.pt")))["encoder"].status
        == "ok"
    )


def test_tokenizers_and_text_towers_of_the_hub_are_part_of_an_encoder() -> None:
    named = {source.name for source in download_sources("ViT-B-16-SigLIP", "webli")}
    assert len(named) >= 1 and "timm/ViT-B-16-SigLIP" in named
    named = {source.name for source in download_sources("roberta-ViT-B-32", "laion2b_s12b_b32k")}
    assert "roberta-base" in named and any(name.startswith("laion/") for name in named)
    assert download_sources("local-dir:/anywhere", None) == [] == download_sources("ViT-B-32", None)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-H-14", "ViT-bigG-14"])
def test_the_bytes_of_a_vision_transformer_are_those_of_its_parameters(name: str) -> None:
    import open_clip
    import torch

    with torch.device("meta"):
        model: Any = open_clip.create_model(name, load_weights=False, device="meta")
    assert weight_bytes(name) == pytest.approx(4 * sum(p.numel() for p in model.parameters()), rel=1e-5)
    assert weight_bytes("ViT-B-16-SigLIP") is None, "a tower of timm"


def device(folder: Path, text: str) -> dict[str, Check]:
    (folder / "setr.toml").write_text(text)
    settings = load_settings(folder / "setr.toml")
    return {check.what: check for check in model_checks.device_checks(settings)}


def test_a_device_that_is_not_here_is_missing(tmp_path: Path) -> None:
    import torch

    absent = "mps" if not torch.backends.mps.is_available() else "xpu"
    found = device(tmp_path, f'[models]\ndevice = "{absent}"\n')["device"]
    assert found.status == "missing" and f'models.device = "{absent}" cannot be used' in found.detail
    found = device(tmp_path, '[models]\ndevice = "cuda:99"\n')["device"]
    assert found.status == "missing"


def test_auto_says_which_device_it_is(tmp_path: Path) -> None:
    from setr_lib.models.device import pick_device

    found = device(tmp_path, "")
    assert found["device"].status == "ok" and found["device"].detail.startswith(str(pick_device()))
    assert "dtype" not in device(tmp_path, '[models.judge]\ndtype = "bfloat16"\n[models]\ndevice = "cpu"\n')


def test_a_number_format_that_the_device_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def refuse(*size: int, **options: object) -> None:
        raise TypeError("BFloat16 is not supported on MPS\nmore")

    monkeypatch.setattr(torch, "ones", refuse)
    problem = model_checks.dtype_problem(torch.device("cpu"), "bfloat16")
    assert problem is not None and problem[0] == "missing"
    assert "cannot compute bfloat16 (BFloat16 is not supported on MPS)" in problem[1]
    assert 'dtype = "float32"' in problem[1]


def test_a_graphics_card_without_bfloat16_of_its_own_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *size, dtype, device: ones(*size, dtype=dtype))
    card: Any = SimpleNamespace(type="cuda")
    for native, expected in ((True, None), (False, "warning")):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda *, including_emulation, native=native: native
        )
        problem = model_checks.dtype_problem(card, "bfloat16")
        assert (problem and problem[0]) == expected
    assert model_checks.dtype_problem(card, "float16") is None
