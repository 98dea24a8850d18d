"""Prefixes that are read in place give the plain forward pass's scores, on real architectures."""

from __future__ import annotations

import copy
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch  # noqa: TID253

from setr_lib.models.multimodal import (
    CANDIDATE,
    REFERENCE,
    ImageSlot,
    MultimodalModel,
    Picture,
    RenderedPrompt,
    prefix_attention,
    shared_prefix,
)
from setr_lib.models.multimodal.forward import LanguageModelPass
from setr_lib.models.multimodal.lean_layers import lean_layers
from setr_lib.models.multimodal.prefix_attention import RowRuns, attend, attention_and_lse
from setr_lib.settings import JudgeSettings
from tests.tiny_judges import tiny_picture, write_tiny_judge

torch.set_num_threads(1)
KINDS = ("llava", "llava_qwen2", "qwen2_5_vl", "qwen3_vl")
PICTURES = [Picture(f"p{seed}", tiny_picture(seed, (32 + 16 * (seed % 3), 40))) for seed in range(6)]
QUERIES = (
    (PICTURES[0], "make it red and the square blue", PICTURES[1:]),
    (PICTURES[1], "blue", PICTURES[:1]),
    (PICTURES[2], "with a large circle", PICTURES),
)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MultimodalModel:
    folder = write_tiny_judge(request.param, tmp_path_factory.mktemp("judges") / request.param)
    return MultimodalModel.load(JudgeSettings(name=str(folder), batch_size=4), device="cpu")


def prompt(modification: str) -> RenderedPrompt:
    return RenderedPrompt((ImageSlot(REFERENCE), modification, ImageSlot(CANDIDATE), "match ?"), "query")


def requests() -> list[Any]:
    return [
        (prompt(text), {REFERENCE: reference, CANDIDATE: candidate})
        for reference, text, candidates in QUERIES
        for candidate in candidates
    ]


def shared_scores(model: MultimodalModel) -> np.ndarray:
    prefixes, suffixes, owners = [], [], []
    for owner, (reference, text, candidates) in enumerate(QUERIES):
        prefix, ends = model.rows.judge_rows(prompt(text), reference, candidates)
        prefixes.append(prefix)
        suffixes += ends
        owners += [owner] * len(ends)
    order = np.random.default_rng(0).permutation(len(suffixes))
    with torch.inference_mode():
        cache = model.encode_prefixes(prefixes)
        made = model.answer_differences(cache, [owners[n] for n in order], [suffixes[n] for n in order])
    scores = np.empty(len(order), dtype=np.float32)
    scores[order] = made.numpy()
    return scores


@pytest.mark.parametrize("activation_bytes", [1, 2**22])
def test_shared_prefixes_give_the_plain_scores_without_a_copy(
    model: MultimodalModel, activation_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = model.plain_answer_scores(requests())
    assert plain.std() > 1e-2, "the test model must tell pictures apart, or equality proves nothing"
    assert model.check_caches(requests())
    assert model.prefixes_are_shared
    monkeypatch.setattr(shared_prefix, "ACTIVATION_BYTES", activation_bytes)
    run = LanguageModelPass.run

    def whole_rows_only(self: Any, rows: Any, prefixes: Any = None, owners: Any = ()) -> Any:
        assert prefixes is None, "a prefix was copied"
        return run(self, rows, prefixes, owners)

    monkeypatch.setattr(LanguageModelPass, "run", whole_rows_only)
    assert np.abs(shared_scores(model) - plain).max() < 1e-4
    assert model.model.get_decoder().config._attn_implementation == "sdpa", "left as it was"


def test_a_wrong_kernel_is_found_out_and_not_used(
    model: MultimodalModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = model.plain_answer_scores(requests())

    def wrong(*given: Any, causal: bool) -> Any:
        out, lse = attention_and_lse(*given, causal=causal)
        return out, lse + 0.5 * causal

    monkeypatch.setattr(prefix_attention, "attention_and_lse", wrong)
    monkeypatch.setattr(model, "caches_are_exact", None)
    monkeypatch.setattr(model, "prefixes_are_shared", False)
    with caplog.at_level(logging.WARNING):
        assert model.check_caches(requests())
    assert not model.prefixes_are_shared
    assert "copies its query's keys and values" in caplog.text
    assert np.abs(shared_scores(model) - plain).max() < 1e-4


def test_layers_with_sliding_windows_fall_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_tiny_judge("llava_qwen2", tmp_path / "judge")
    model = MultimodalModel.load(JudgeSettings(name=str(folder), batch_size=4), device="cpu")
    config = model.model.config.get_text_config()
    config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    with caplog.at_level(logging.WARNING):
        rows = model.rows.rows(requests()[:2])
        assert not shared_prefix.check_shared_prefixes(model.shared, rows)
    assert "layers with sliding_attention" in caplog.text


@pytest.mark.parametrize("shared_heads", [1, 3])
def test_merged_attention_is_attention_to_prefix_and_row_together(shared_heads: int) -> None:
    torch.manual_seed(0)
    heads, size, lengths, owners = 2, 8, [3, 4, 5, 5, 9], [1, 0, 0, 1, 1]
    prefixes = [(torch.randn(heads, n, size), torch.randn(heads, n, size)) for n in (7, 4)]
    tokens = sum(lengths)
    query = torch.randn(tokens, heads * shared_heads, size)
    key, value = torch.randn(2, tokens, heads, size)
    made = attend(query, key, value, prefixes, RowRuns.of(lengths, owners), 0.3)
    begin = 0
    for length, owner in zip(lengths, owners, strict=True):
        for token in range(length):
            for head in range(heads * shared_heads):
                of_key = head // shared_heads
                keys = torch.cat([prefixes[owner][0][of_key], key[begin : begin + token + 1, of_key]])
                values = torch.cat([prefixes[owner][1][of_key], value[begin : begin + token + 1, of_key]])
                expected = (0.3 * keys @ query[begin + token, head]).softmax(0) @ values
                assert torch.allclose(made[begin + token, head], expected, atol=1e-5)
        begin += length


@pytest.mark.parametrize("causal", [False, True])
def test_matrix_products_give_what_the_kernel_gives(causal: bool) -> None:
    torch.manual_seed(1)
    query, key, value = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
    kernel = attention_and_lse(query, key, value, 0.3, causal=causal)
    plain = prefix_attention.by_products(query, key, value, 0.3, causal=causal)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(kernel, plain, strict=True))


def test_lean_layers_give_what_the_usual_ones_give_and_leave_nothing_behind(model: MultimodalModel) -> None:
    decoder = model.model.get_decoder()
    architecture = sys.modules[type(decoder).__module__]
    rotate, tokens = architecture.apply_rotary_pos_emb, torch.arange(10, 40)[None]
    usual: dict[str, Any] = {}
    with torch.inference_mode():
        expected = decoder(tokens, use_cache=False).last_hidden_state
        with lean_layers(decoder):
            changed = {name for name, module in decoder.named_modules() if "forward" in vars(module)}
            assert {"norm", "layers.0.input_layernorm", "layers.0.mlp"} <= changed
            assert architecture.apply_rotary_pos_emb is not rotate
            made = decoder(tokens, use_cache=False).last_hidden_state
            assert torch.allclose(made, expected, atol=1e-5)
        usual = {name: module for name, module in decoder.named_modules() if "forward" in vars(module)}
    assert not usual
    assert architecture.apply_rotary_pos_emb is rotate


def _neighbours_rotated(q: Any, k: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> tuple[Any, Any]:
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)

    def rotated(x: Any) -> Any:
        return x * cos + torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2) * sin

    return rotated(q), rotated(k)


def test_positions_that_are_rotated_otherwise_are_left_as_they_are(
    model: MultimodalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, tokens = model.model.get_decoder(), torch.arange(10, 40)[None]
    architecture = sys.modules[type(decoder).__module__]
    with torch.inference_mode():
        usual = decoder(tokens, use_cache=False).last_hidden_state
        monkeypatch.setattr(architecture, "apply_rotary_pos_emb", _neighbours_rotated)
        expected = decoder(tokens, use_cache=False).last_hidden_state
        with lean_layers(decoder):
            made = decoder(tokens, use_cache=False).last_hidden_state
    assert torch.allclose(made, expected, atol=1e-5)
    assert not torch.allclose(expected, usual, atol=1e-2), "the other rotation shows"


def test_layers_that_clamp_or_scale_keep_their_own_pass(model: MultimodalModel) -> None:
    """Some gated MLPs clamp what is large: the first scores may agree, and later ones would not."""
    decoder, tokens = model.model.get_decoder(), torch.arange(10, 40)[None]
    mlp, norm = type(decoder.layers[0].mlp), type(decoder.norm)

    class ClampingMLP(mlp):
        def forward(self, x: Any) -> Any:
            return self.down_proj((self.act_fn(self.gate_proj(x)) * self.up_proj(x)).clamp(-0.1, 0.1))

    class OffsetRMSNorm(norm):
        def forward(self, hidden_states: Any) -> Any:
            return super().forward(hidden_states) + hidden_states.sign()

    for kind, other in ((mlp, ClampingMLP), (norm, OffsetRMSNorm)):
        changed = [module for module in decoder.modules() if type(module) is kind]
        with torch.inference_mode():
            usual = decoder(tokens, use_cache=False).last_hidden_state
            for module in changed:
                module.__class__ = other
            expected = decoder(tokens, use_cache=False).last_hidden_state
            with lean_layers(decoder):
                made = decoder(tokens, use_cache=False).last_hidden_state
        for module in changed:
            module.__class__ = kind
        assert torch.allclose(made, expected, atol=1e-5)
        assert not torch.allclose(expected, usual, atol=1e-2), "the other layers show"


def test_lean_layers_of_two_threads_that_overlap_leave_nothing_behind(model: MultimodalModel) -> None:
    decoder = model.model.get_decoder()
    architecture, other = sys.modules[type(decoder).__module__], copy.deepcopy(decoder)
    rotate, first_in, second_in = architecture.apply_rotary_pos_emb, threading.Event(), threading.Event()

    def first() -> None:
        with lean_layers(decoder):
            first_in.set()
            assert second_in.wait(10)

    def second() -> None:
        assert first_in.wait(10)
        with lean_layers(other):
            second_in.set()
            thread.join(10)

    thread, last = threading.Thread(target=first), threading.Thread(target=second)
    thread.start()
    last.start()
    assert second_in.wait(10)
    tensors = [torch.randn(1, 2, 4, 8) for _ in range(2)]
    cos, sin = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    made = architecture.apply_rotary_pos_emb(*tensors, cos, sin)
    outside = [torch.equal(a, b) for a, b in zip(made, rotate(*tensors, cos, sin), strict=True)]
    thread.join()
    last.join()
    assert all(outside), "a thread that is outside of it gets what it always got"
    assert architecture.apply_rotary_pos_emb is rotate


def test_rows_of_many_lengths_attend_in_few_batches() -> None:
    lengths = [9, 10, 10, 11, 40, 42, 9, 9]
    runs = RowRuns.of(lengths, [0, 0, 0, 0, 0, 0, 1, 1])
    assert [(rows.begin, rows.end, rows.longest) for rows in runs.batches] == [
        (0, 40, 11),
        (40, 122, 42),
        (122, 140, 9),
    ]
    assert runs.owners == ((0, 122, 0), (122, 140, 1))
    packed = torch.randn(140, 3, 2)
    for rows in runs.batches:
        assert torch.equal(rows.packed(rows.batch(packed)), packed[rows.begin : rows.end])
