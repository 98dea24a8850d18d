"""Caching changes nothing: cached images and prefixes give the plain forward pass's numbers, on real
architectures.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch  # noqa: TID253

from setr_lib.models.multimodal import (
    CANDIDATE,
    IMAGE,
    REFERENCE,
    ImageSlot,
    JudgeError,
    MultimodalModel,
    Picture,
    PictureError,
    RenderedPrompt,
    Request,
)
from setr_lib.models.multimodal.loading import folder_digest
from setr_lib.models.multimodal.special_tokens import answer_token_ids
from setr_lib.settings import JudgeSettings
from tests.tiny_judges import tiny_picture, write_tiny_judge

torch.set_num_threads(1)
KINDS = ("llava", "llava_qwen2", "qwen2_5_vl", "qwen3_vl")
# Pictures of several shapes: on the Qwen models they take several numbers of tokens.
PICTURES = [Picture(f"p{seed}", tiny_picture(seed, (32 + 16 * (seed % 3), 40))) for seed in range(6)]


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MultimodalModel:
    folder = write_tiny_judge(request.param, tmp_path_factory.mktemp("judges") / request.param)
    return load(folder)


def load(folder: Path, adapter: Path | None = None, *, merge_adapter: bool = True) -> MultimodalModel:
    settings = JudgeSettings(name=str(folder), batch_size=4, pair_batch_size=8)
    return MultimodalModel.load(settings, adapter=adapter, device="cpu", merge_adapter=merge_adapter)


def judge_prompt(modification: str) -> RenderedPrompt:
    parts = (ImageSlot(REFERENCE), modification, ImageSlot(CANDIDATE), "match ?")
    return RenderedPrompt(parts, "query and candidate")


def judge_requests(reference: Picture, modification: str) -> list[Request]:
    return [(judge_prompt(modification), {REFERENCE: reference, CANDIDATE: picture}) for picture in PICTURES]


QUERIES = ((PICTURES[0], "make it red and the square blue"), (PICTURES[1], "blue"))


def test_cached_images_give_the_plain_scores(model: MultimodalModel) -> None:
    requests = [request for query in QUERIES for request in judge_requests(*query)]
    plain = model.plain_answer_scores(requests)
    assert model.check_caches(requests)
    assert np.abs(model.answer_scores(requests) - plain).max() < 1e-4
    assert plain.std() > 1e-2, "the test model must tell pictures apart, or equality proves nothing"


def test_shared_prefixes_of_several_queries_give_the_plain_scores(model: MultimodalModel) -> None:
    prefixes, suffixes, owners = [], [], []
    for owner, (reference, modification) in enumerate(QUERIES):
        prefix, tails = model.rows.judge_rows(judge_prompt(modification), reference, PICTURES)
        prefixes.append(prefix)
        suffixes += tails
        owners += [owner] * len(tails)
    plain = model.plain_answer_scores([request for query in QUERIES for request in judge_requests(*query)])
    shuffled = np.random.default_rng(0).permutation(len(suffixes))
    with torch.no_grad():
        cache = model.encode_prefixes(prefixes)
        scores = model.answer_differences(
            cache, [owners[i] for i in shuffled], [suffixes[i] for i in shuffled]
        )
    assert scores.dtype == torch.float32
    assert np.abs(scores.numpy() - plain[shuffled]).max() < 1e-4


def test_prefix_and_suffix_are_the_whole_prompt(model: MultimodalModel) -> None:
    prompt = judge_prompt("make it red")
    prefix, (suffix,) = model.rows.judge_rows(prompt, PICTURES[0], PICTURES[1:2])
    whole = model.rows.expand(
        model.prompts.tokenise(prompt), {REFERENCE: PICTURES[0], CANDIDATE: PICTURES[1]}
    )
    assert (prefix + suffix).ids == whole.ids
    assert suffix.ids[0] == model.image_token_id


def test_tokens_are_the_processors_own(model: MultimodalModel) -> None:
    request = judge_requests(*QUERIES[0])[1]
    assert model.rows.expand(model.prompts.tokenise(request[0]), request[1]).ids == tuple(
        model.plain.inputs([request])["input_ids"][0].tolist()
    )


def test_generation_equals_the_models_own_greedy_generation(model: MultimodalModel) -> None:
    prompt = RenderedPrompt((ImageSlot(IMAGE), "describe"))
    longer = RenderedPrompt((ImageSlot(IMAGE), "describe the picture and the circle in it"))
    requests: list[Request] = [
        (prompt if place % 2 else longer, {IMAGE: picture}) for place, picture in enumerate(PICTURES)
    ]
    assert model.generate(requests, 12) == model.plain.generate(requests, 12)


def test_an_image_runs_through_the_tower_once(
    model: MultimodalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    run = model.vision.run
    monkeypatch.setattr(
        model.vision, "run", lambda batch: seen.extend(p.fingerprint for p in batch) or run(batch)
    )
    model.vision.memory.clear()
    model.vision.precompute(PICTURES)
    model.rows.judge_rows(judge_prompt("red"), PICTURES[0], PICTURES)
    model.answer_scores(judge_requests(PICTURES[0], "red"))
    assert sorted(seen) == sorted(picture.fingerprint for picture in PICTURES)


def test_the_vision_memory_stays_within_its_limit_and_the_longest_unused_go_first(
    model: MultimodalModel,
) -> None:
    sizes = {picture: model.vision.features([picture])[0].nbytes for picture in PICTURES}
    first, second, *others = PICTURES
    model.vision.memory.clear()
    model.vision.memory.limit, limit = sum(sizes.values()) - 1, model.vision.memory.limit
    try:
        model.vision.precompute([first, second, *others[:-1]])
        model.vision.features([first])
        assert all(picture in model.vision for picture in PICTURES[:-1])
        model.vision.features([others[-1]])
        assert second not in model.vision
        assert all(picture in model.vision for picture in [first, *others])
    finally:
        model.vision.memory.limit = limit


def test_an_adapter_changes_the_scores_and_merging_it_does_not(
    model: MultimodalModel, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    folder = Path(model.model.config._name_or_path)
    trained = load(folder)
    config = LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj", init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        wrapped = get_peft_model(trained.model, config)
    wrapped.save_pretrained(str(tmp_path / "adapter"))
    requests = judge_requests(*QUERIES[0])
    expected = trained.answer_scores(requests)
    merged, kept = load(folder, tmp_path / "adapter"), load(folder, tmp_path / "adapter", merge_adapter=False)
    assert np.abs(expected - model.answer_scores(requests)).max() > 1e-3
    assert np.abs(merged.answer_scores(requests) - expected).max() < 1e-4
    assert np.abs(kept.answer_scores(requests) - expected).max() < 1e-4
    assert merged.id != model.id and merged.id == kept.id


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("adapted", ["language_model", "(vision_tower|visual)"])
def test_vision_outputs_are_shared_with_an_adapter_of_the_language_model_only(
    model: MultimodalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapted: str, merge: bool
) -> None:
    from peft import LoraConfig, get_peft_model

    folder = Path(model.model.config._name_or_path)
    layer = r"(q_proj|qkv)"
    config = LoraConfig(r=2, target_modules=rf".*{adapted}.*\.{layer}", init_lora_weights=False)
    get_peft_model(load(folder).model, config).save_pretrained(str(tmp_path))
    judge = load(folder, tmp_path, merge_adapter=merge)
    expected = judge.answer_scores(judge_requests(*QUERIES[0]))
    judge = load(folder, tmp_path, merge_adapter=merge)
    model.vision.precompute(PICTURES)
    assert judge.vision.share_memory(model.vision) == (adapted == "language_model")
    assert all(picture in judge.vision for picture in PICTURES) == (adapted == "language_model")
    judge.caches_are_exact = True  # the question would run the tower
    if adapted == "language_model":
        monkeypatch.setattr(judge.vision, "run", pytest.fail)
    assert np.abs(judge.answer_scores(judge_requests(*QUERIES[0])) - expected).max() < 1e-4


def test_another_models_vision_outputs_are_not_shared(model: MultimodalModel, tmp_path: Path) -> None:
    other = load(write_tiny_judge("llava", tmp_path / "other", seed=5))
    assert not other.vision.share_memory(model.vision) and not model.vision.share_memory(other.vision)


def test_a_corrected_card_makes_no_other_model(model: MultimodalModel, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model.model.config._name_or_path, folder)
    before = folder_digest(folder)
    (folder / "scores.json").write_text('{"minutes": 1}', encoding="utf-8")
    (folder / "README.md").write_text("a card", encoding="utf-8")
    assert folder_digest(folder) == before
    (folder / "config.json").write_text("{}", encoding="utf-8")
    assert folder_digest(folder) != before


def test_an_adapter_with_missing_weights_is_refused(model: MultimodalModel, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file

    folder = Path(model.model.config._name_or_path)
    wrapped = get_peft_model(load(folder).model, LoraConfig(target_modules=["q_proj"]))
    wrapped.save_pretrained(str(tmp_path))
    weights = load_file(tmp_path / "adapter_model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(JudgeError, match="does not fit"):
        load(folder, tmp_path)
    with pytest.raises(JudgeError, match=r"adapter_config\.json"):
        load(folder, tmp_path / "nowhere")


def test_an_architecture_that_the_caches_do_not_know_is_judged_plainly(model: MultimodalModel) -> None:
    other = load(Path(model.model.config._name_or_path))
    expected = other.plain_answer_scores(judge_requests(*QUERIES[0]))
    positions = other.forward.positions.of_row
    other.forward.positions.of_row = lambda row: (
        positions(row) * 0
    )  # wrong positions stand for anything the caches get wrong
    assert np.array_equal(other.answer_scores(judge_requests(*QUERIES[0])), expected)
    assert other.caches_are_exact is False


def test_the_check_of_the_caches_leaves_no_vision_outputs(model: MultimodalModel) -> None:
    other = load(Path(model.model.config._name_or_path))
    other.vision.precompute(PICTURES[:1])
    assert other.check_caches(judge_requests(PICTURES[1], "red"))
    assert [picture in other.vision for picture in PICTURES] == [True] + [False] * 5


def test_batches_halve_when_memory_is_short(model: MultimodalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = judge_requests(*QUERIES[0])
    expected = model.answer_scores(requests)
    full = model.full_differences

    def short(rows: list) -> torch.Tensor:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return full(rows)

    monkeypatch.setattr(model, "full_differences", short)
    assert np.allclose(model.answer_scores(requests), expected, atol=1e-5)


def test_control_tokens_in_a_text_stay_text(model: MultimodalModel) -> None:
    text = f"make it {model.image_token} red {model.tokenizer.eos_token}"
    tokens = model.prompts.tokenise(judge_prompt(text))
    assert tokens.ids.count(model.image_token_id) == 2


def test_the_identity_follows_the_weights_not_the_place(tmp_path: Path) -> None:
    first = load(write_tiny_judge("llava", tmp_path / "a" / "judge")).id
    assert load(write_tiny_judge("llava", tmp_path / "b" / "judge")).id == first
    assert load(write_tiny_judge("llava", tmp_path / "c" / "judge", seed=1)).id != first


def test_errors_say_where(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="nowhere"):
        load(tmp_path / "nowhere")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"broken\.png"):
        Picture("x", broken).open()


def test_a_tokenizer_without_answers_cannot_judge(model: MultimodalModel) -> None:
    class Speechless:
        unk_token_id = 0

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [0]}

    assert answer_token_ids(model.tokenizer) == (model.yes_id, model.no_id)
    with pytest.raises(JudgeError, match="Yes and No"):
        answer_token_ids(Speechless())
