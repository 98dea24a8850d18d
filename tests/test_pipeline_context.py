"""The context: which models it keeps, and what they share."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch  # noqa: TID253

from setr_lib.models.multimodal import Picture
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.reranking import yes_no_judge
from setr_lib.registry.bundle import Bundle, base_reference
from setr_lib.registry.errors import RegistryError
from setr_lib.settings import JudgeSettings, ModelSettings, Settings
from setr_lib.texts.prompts import PromptTemplate
from tests.tiny_judges import tiny_picture, write_tiny_judge


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PipelineContext:
    """A context with a tiny judge, and two adapters of it in a registry that is nothing but their folders."""
    from peft import LoraConfig, get_peft_model

    name = write_tiny_judge("llava", tmp_path / "judge")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "judge.jinja").write_text("<reference>{{ modification }}<candidate>match ?")
    options = JudgeSettings(name=str(name), prompts="prompts")
    settings = Settings(base_dir=tmp_path, models=ModelSettings(judge=options))
    context = PipelineContext(settings)
    for version in ("1", "2"):
        config = LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj", init_lora_weights=False)
        torch.manual_seed(int(version))
        get_peft_model(context.models.fresh_multimodal().model, config).save_pretrained(
            str(tmp_path / version)
        )
        template = PromptTemplate(tmp_path, f"<reference>{{{{ modification }}}}<candidate>match {version} ?")
        (tmp_path / version / "prompts").mkdir()
        (tmp_path / version / "prompts" / "judge.jinja").write_text(template.source)
        base = base_reference(context.models.multimodal(), options, settings.judge_name)
        record = {"prompt_hash": template.hash, "base": asdict(base)}
        (tmp_path / version / "reranker.json").write_text(json.dumps(record))
    monkeypatch.setattr(PipelineContext, "bundle", lambda _, version: Bundle(*[tmp_path / version] * 2))
    return PipelineContext(settings)


@pytest.mark.parametrize("order", [(None, "1", "2"), ("1", None, "2")])
def test_all_judges_share_what_the_vision_tower_saw_and_one_adapter_is_kept(
    context: PipelineContext, order: tuple[str | None, ...]
) -> None:
    picture = Picture("p", tiny_picture(1))
    context.models.multimodal(order[0]).vision.features([picture])
    judges = [context.models.multimodal(version) for version in order]
    assert all(picture in judge.vision for judge in judges)
    assert len({judge.id for judge in judges}) == 3
    assert (
        context.models.multimodal(None) is judges[order.index(None)]
        and context.models.multimodal("2") is judges[2]
    )
    assert context.models.multimodal("1") is not judges[order.index("1")]


def test_the_base_judge_has_the_settings_prompt_and_an_adapted_one_its_own(context: PipelineContext) -> None:
    base, first, second = (yes_no_judge(context, version) for version in (None, "1", "2"))
    assert base.template == context.prompts().get("judge")
    assert [judge.template.source.partition("<candidate>")[2] for judge in (base, first, second)] == [
        "match ?",
        "match 1 ?",
        "match 2 ?",
    ]
    assert len({judge.id for judge in (base, first, second)}) == 3
    assert yes_no_judge(context).model is context.models.multimodal()


@pytest.mark.parametrize("larger", [False, True])
def test_an_adapter_of_another_base_is_refused_with_the_base_it_is_for(
    context: PipelineContext, tmp_path: Path, larger: bool
) -> None:
    trained_on = context.models.multimodal().base_id
    other = write_tiny_judge("llava_qwen2" if larger else "llava", tmp_path / "other", seed=5)
    judge = context.settings.models.judge.model_copy(update={"name": str(other)})
    models = context.settings.models.model_copy(update={"judge": judge})
    elsewhere = PipelineContext(context.settings.model_copy(update={"models": models}))
    for load in (elsewhere.models.multimodal, lambda version: yes_no_judge(elsewhere, version)):
        with pytest.raises(RegistryError) as caught:
            load("1")
        words = str(caught.value)
        assert f"was trained on {trained_on}, but {other} holds other@" in words
        assert "[models.judge] name, or train an adapter for this one" in words
    assert elsewhere.models.multimodal().base_id != trained_on
