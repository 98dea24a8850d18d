"""What a person names as the judge: refused in words before its weights are loaded, or loaded as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch  # noqa: TID253

from setr_lib.hashing import fingerprint_bytes
from setr_lib.models.multimodal import JudgeError, MultimodalModel, Picture
from setr_lib.models.multimodal.architectures import accepts_vision_outputs, has_recurrent_layers
from setr_lib.models.multimodal.model_files import model_files_problem
from setr_lib.models.multimodal.pictures import prepares_pictures_alone
from setr_lib.models.multimodal.suitability import suitability
from setr_lib.reranking.reranker import JudgedQuery
from setr_lib.reranking.yes_no_judge import YesNoJudge
from setr_lib.settings import JudgeSettings
from tests.published_judges import pixtral_processor, write_published_judge
from tests.reranking import judge_worlds as worlds
from tests.tiny_judges import tiny_picture

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen3-VL as its small sizes are published: the output head is the embedding."""
    folder = tmp_path_factory.mktemp("models") / "qwen3_vl"
    return write_published_judge("qwen3_vl", folder, tie_word_embeddings=True)


@pytest.fixture
def copied(qwen: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(qwen, tmp_path / "judge"))


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def refused(name: Path | str, words: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """It is refused with the same sentence by a look at it and by loading it, which reads no weights."""
    from transformers import AutoModelForImageTextToText

    settings = JudgeSettings(name=str(name), **options)
    (problem,) = suitability(settings, str(name)).problems
    assert words in problem
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", pytest.fail)
    with pytest.raises(JudgeError) as error:
        MultimodalModel.load(settings, device="cpu")
    assert str(error.value) == f"models.judge.name = {str(name)!r}: {problem}"


def test_a_language_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaConfig

    LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    refused(tmp_path, "it is a language model (llama) that sees no pictures", monkeypatch)


def test_a_clip_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import CLIPConfig

    CLIPConfig(architectures=["CLIPModel"]).save_pretrained(tmp_path)
    refused(tmp_path, "an encoder of images and texts (clip), which writes nothing", monkeypatch)


def test_another_kind_of_model_is_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import ViTConfig

    ViTConfig(architectures=["ViTForImageClassification"]).save_pretrained(copied)
    refused(copied, "its model type 'vit' is no image-text-to-text model", monkeypatch)


def test_an_adapter_is_refused_by_the_name_of_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"base_model_name_or_path": "Qwen/Qwen3-VL-2B-Instruct", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(told), encoding="utf-8")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    refused(tmp_path, "it is a PEFT adapter of Qwen/Qwen3-VL-2B-Instruct, not a model", monkeypatch)


def test_a_name_that_is_not_downloaded_is_refused_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, words in (
        ("no/such-model", "is not on this machine .* HF_HUB_OFFLINE=1 forbids downloads"),
        ("./models/judge", "there is no such folder, and it is no hub id"),
    ):
        with pytest.raises(JudgeError, match=words):
            MultimodalModel.load(JudgeSettings(name=name), device="cpu")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert model_files_problem("no/such-model") is None, "it may be downloaded"


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("config.json", "it holds no config.json"),
        (
            "processor_config.json",
            "it holds no processor (processor_config.json or",
        ),
        ("model.safetensors", "it holds no weights"),
        ("chat_template.jinja", "its processor has no chat template"),
    ],
)
def test_a_file_that_is_missing_is_named(
    copied: Path, monkeypatch: pytest.MonkeyPatch, lost: str, words: str
) -> None:
    (copied / lost).unlink()
    refused(copied, words, monkeypatch)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run `git lfs pull` in the folder"),
        (b"", "model.safetensors is "),
        (b"\x10\0\0\0\0\0\0\0{", "model.safetensors is cut or overwritten"),
    ],
)
def test_weights_that_are_not_whole_are_named(
    copied: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, words: str
) -> None:
    (copied / "model.safetensors").write_bytes(content)
    refused(copied, words, monkeypatch)


def test_a_model_that_the_installed_transformers_does_not_know(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(copied / "config.json", lambda config: config.update(model_type="qwen9_vl"))
    refused(copied, "does not know its architecture", monkeypatch)


@pytest.mark.parametrize("kind", ["internvl_chat", "llava_qwen"])
def test_a_published_checkpoint_of_another_form(
    copied: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    changed(copied / "config.json", lambda config: config.update(model_type=kind))
    refused(copied, "-hf", monkeypatch)


def test_code_of_its_own_needs_consent(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"AutoConfig": "configuration_own.OwnConfig"}
    changed(copied / "config.json", lambda config: config.update(model_type="own", auto_map=own))
    refused(copied, "runs only where `trust_remote_code = true`", monkeypatch)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}<|image_pad|>",
            "its chat template shows one of two pictures",
        ),
        ("{{ raise_exception('System role not supported') }}", "its chat template fails on a system text"),
    ],
)
def test_a_chat_template_for_one_picture_or_without_system_text(
    copied: Path, monkeypatch: pytest.MonkeyPatch, template: str, words: str
) -> None:
    (copied / "chat_template.jinja").write_text(template, encoding="utf-8")
    refused(copied, words, monkeypatch)


def test_a_tokenizer_without_answers(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copied / "tokenizer.json"
    changed(path, lambda content: content["model"].update(merges=[]))
    refused(copied, "no single token for Yes and No in any spelling", monkeypatch)


def test_a_model_too_short_for_two_pictures(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shorter(config: dict[str, Any]) -> None:
        config["text_config"]["max_position_embeddings"] = 12

    changed(copied / "config.json", shorter)
    refused(copied, "and it reads 12 at most", monkeypatch)


def test_a_package_that_a_processor_needs_is_named(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.smolvlm import processing_smolvlm

    monkeypatch.setattr(processing_smolvlm, "num2words", None)  # as where it is not installed
    changed(copied / "processor_config.json", lambda told: told.update(processor_class="SmolVLMProcessor"))
    refused(copied, "pip install num2words", monkeypatch)


def test_half_precision_that_overflows_is_noted(tmp_path: Path) -> None:
    folder = write_published_judge("gemma3", tmp_path / "gemma3")
    notes = suitability(JudgeSettings(name=str(folder), dtype="float16"), str(folder)).notes
    assert any("float16 overflows in gemma3" in note for note in notes)
    assert not any(
        "overflows" in note for note in suitability(JudgeSettings(name=str(folder)), str(folder)).notes
    )


def test_windows_and_recurrent_layers_are_noted(tmp_path: Path) -> None:
    from transformers import Qwen3_5Config

    assert has_recurrent_layers(Qwen3_5Config()), "three of four of its layers are"
    folder = write_published_judge("internvl", tmp_path / "internvl")
    for layers, words in (
        (["sliding_attention", "full_attention", "full_attention"], "it has sliding windows"),
        (["linear_attention", "full_attention", "full_attention"], "it has recurrent layers, so each pair"),
        (["full_attention"] * 3, ""),
    ):
        changed(folder / "config.json", lambda told, to=layers: told["text_config"].update(layer_types=to))
        notes = " ".join(suitability(JudgeSettings(name=str(folder)), str(folder)).notes)
        assert (words in notes) if words else (notes == "")


@pytest.mark.parametrize(
    ("name", "reusable"),
    [
        ("Qwen3VLForConditionalGeneration", True),
        ("Mistral3ForConditionalGeneration", True),
        ("PaliGemmaForConditionalGeneration", False),
        ("Gemma4ForConditionalGeneration", False),
    ],
)
def test_pictures_that_attend_in_both_directions_are_known_by_the_class(name: str, reusable: bool) -> None:
    import transformers

    assert accepts_vision_outputs(getattr(transformers, name)) == reusable


def test_a_processor_that_prepares_pictures_in_its_own_way_is_found_out(qwen: Path) -> None:
    from transformers import AutoProcessor

    assert prepares_pictures_alone(AutoProcessor.from_pretrained(qwen))
    assert not prepares_pictures_alone(pixtral_processor())


def scores(folder: Path, **options: Any) -> np.ndarray:
    judge = YesNoJudge(
        MultimodalModel.load(JudgeSettings(name=str(folder), **options), device="cpu"), worlds.prompt()
    )
    pictures = [Picture(fingerprint_bytes(content), content) for content in map(tiny_picture, range(4))]
    (found,) = judge.score([JudgedQuery(pictures[0], "make it red", tuple(pictures[1:]))])
    return found


def test_shards_in_half_precision_and_the_files_of_a_hub_give_the_same_scores(
    qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bfloat16 in several files, the processor in the files that older versions of transformers wrote."""
    from transformers import AutoModelForImageTextToText

    folder = Path(shutil.copytree(qwen, tmp_path / "published"))
    (folder / "model.safetensors").unlink()
    model: Any = AutoModelForImageTextToText.from_pretrained(qwen, dtype="bfloat16")
    model.save_pretrained(folder, max_shard_size="40KB")
    assert len([*folder.glob("model-*.safetensors")]) > 2
    told = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
    (folder / "processor_config.json").unlink()
    images = {**told["image_processor"], "processor_class": "Qwen3VLProcessor"}
    images["image_processor_type"] = "Qwen2VLImageProcessorFast"
    (folder / "preprocessor_config.json").write_text(json.dumps(images), encoding="utf-8")
    videos = json.dumps(told["video_processor"])
    (folder / "video_preprocessor_config.json").write_text(videos, encoding="utf-8")
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    assert suitability(JudgeSettings(name=str(folder)), str(folder)).problems == ()

    model.float().save_pretrained(tmp_path / "rounded")  # the same numbers in one file of float32
    for path in qwen.iterdir():
        if not (tmp_path / "rounded" / path.name).exists():
            shutil.copy(path, tmp_path / "rounded")
    expected = scores(tmp_path / "rounded")
    assert np.std(expected) > 1e-2
    assert np.abs(scores(folder) - expected).max() < 1e-4, "float32 on a CPU"
    assert np.abs(scores(folder, dtype="bfloat16") - expected).max() < 0.5

    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    refused(folder, f"files of weights are missing, the first: {shard.name}", monkeypatch)


def test_a_tokenizer_without_padding_pads_with_its_end(copied: Path) -> None:
    expected = scores(copied)
    changed(copied / "tokenizer_config.json", lambda told: told.pop("pad_token"))
    assert suitability(JudgeSettings(name=str(copied)), str(copied)).problems == ()
    assert np.abs(scores(copied) - expected).max() < 1e-4
