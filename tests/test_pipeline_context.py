"""The context: which models it keeps, and what they share."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch  # noqa: TID253

from setr_lib.models.multimodal import Picture
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.reranking import yes_no_judge
from setr_lib.registry.bundle import Bundle
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
        record = {"prompt_hash": template.hash}
        (tmp_path / version / "reranker.json").write_text(json.dumps(record))
    registry = SimpleNamespace(bundle=lambda version: Bundle(tmp_path / version, tmp_path / version))
    monkeypatch.setattr(PipelineContext, "registry", registry)
    return context


@pytest.mark.parametrize("order", [(None, "1", "2"), ("1", None, "2")])
def test_all_judges_share_what_the_vision_tower_saw_and_one_adapter_is_kept(
    context: PipelineContext, order: tuple[str | None, ...]
) -> None:
    picture = Picture("p", tiny_picture(1))
    context.models.multimodal(order[0]).vision_features([picture])
    judges = [context.models.multimodal(version) for version in order]
    assert all(judge.has_vision_features(picture) for judge in judges)
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
