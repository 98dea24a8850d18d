"""Training of the judge's LoRA adapter on Yes/No pairs (LamRA-Rank's recipe, arXiv 2412.01720, without its list-wise part).

PEFT LoRA on the language model only; the loss is binary cross-entropy on d = logit(Yes) - logit(No), which is the
cross-entropy over the two answer tokens. The vision tower is frozen, so each image goes through it once. A training is
a function of its inputs and its seed: killed and started again, it goes on from its last checkpoint to the same end.
"""

from __future__ import annotations

import logging
import math
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from setr_lib.errors import SetrError
from setr_lib.hashing import digest_json
from setr_lib.models.device import is_out_of_memory, release_memory
from setr_lib.models.judge import (
    CANDIDATE,
    LANGUAGE_MODEL_NAMES,
    REFERENCE,
    MultimodalModel,
    Picture,
    TokenRow,
)
from setr_lib.progress import Progress, silent
from setr_lib.reranking.checkpoint import load_checkpoint, read_json, save_checkpoint, write_json
from setr_lib.reranking.held_out import HeldOutReport, judge_pair_frame, measure, require_pictures
from setr_lib.reranking.pairs import pairs_digest
from setr_lib.reranking.scorer import JudgedQuery
from setr_lib.reranking.yes_no_judge import YesNoJudge
from setr_lib.settings import AdapterSettings
from setr_lib.tables import write_parquet_atomically

if TYPE_CHECKING:
    import torch
    from torch import Tensor

OnMetrics = Callable[[int, Mapping[str, float]], None]
"""Called as ``on_metrics(step, values)``; after a resume, the steps before it are told again first."""

_LOG = logging.getLogger(__name__)
_CLIP_NORM = 1.0
_RESULT, _BEFORE, _HELD_OUT, _ADAPTER = "result.json", "before.json", "held_out.parquet", "adapter"
_FORMAT = (
    1  # part of a run's digest: raise it when the training changes, so that old checkpoints are not continued
)


class AdapterError(SetrError):
    """The adapter cannot be trained on this model or these pairs; the message says what to change."""


@dataclass(frozen=True)
class AdapterResult:
    """A finished training.

    ``folder`` is a PEFT adapter folder (``adapter_model.safetensors``, ``adapter_config.json``). ``before`` and
    ``after`` are the held-out reports of the base and of the adapted judge; ``held_out`` has both judges' scores:
    the columns of PAIRS, ``before`` and ``after`` (float32, the logit differences). ``curve`` has step, loss,
    learning_rate. ``run`` is the digest of everything that determines the result. ``reused``: nothing was trained,
    the same run had been finished before. ``resumed_from``: the step of the checkpoint it went on from, or 0.
    """

    folder: Path
    run: str
    base_id: str
    prompt_hash: str
    pairs_digest: str
    held_out_digest: str
    steps: int
    seconds: float
    trainable_parameters: int
    resumed_from: int
    reused: bool
    before: HeldOutReport
    after: HeldOutReport
    curve: pl.DataFrame
    held_out: pl.DataFrame
    settings: AdapterSettings
    versions: dict[str, str]


def train_adapter(
    judge: YesNoJudge,
    pairs: pl.DataFrame,
    pictures: Mapping[str, Picture],
    settings: AdapterSettings,
    checkpoint_dir: Path,
    *,
    progress: Progress = silent,
    on_metrics: OnMetrics | None = None,
) -> AdapterResult:
    """Train a LoRA adapter for ``judge`` on the "train" rows of ``pairs`` and measure it on the "held_out" rows.

    The model of ``judge`` must be without an adapter; it is as before when this returns. The adapter is trained and
    measured under the prompt of ``judge``. ``checkpoint_dir`` holds the checkpoints, the finished adapter and its
    result: a second call with the same inputs returns at once. Raises ``AdapterError`` or ``HeldOutError``.
    """
    require_pictures(pairs, pictures)
    base = judge.model
    run = training_run_digest(judge, pairs, settings)
    checkpoint_dir.mkdir(parents=True, exist_ok=True)
    finished = load_result(checkpoint_dir, run)
    if finished is not None:
        _replay(finished.curve.rows(), on_metrics)
        return finished
    train, held_out = (pairs.filter(pl.col("split") == split) for split in ("train", "held_out"))
    if not train.height or not held_out.height:
        raise AdapterError(f"{train.height} training and {held_out.height} held-out pairs: both are needed")
    with _adapted(base, settings) as peft_model:
        job = _Job(judge, _groups_of(train, pictures), settings, checkpoint_dir, run)
        needed = {*train["reference_id"], *train["candidate_id"]}
        base.precompute([pictures[name] for name in sorted(needed)], progress)
        before = _scores_before(judge, held_out, pictures, checkpoint_dir, run, progress)
        started = time.monotonic()
        curve, resumed_from, earlier = job.train(progress, on_metrics)
        seconds = earlier + time.monotonic() - started
        after = judge_pair_frame(
            judge, held_out, pictures, progress=progress, what="held-out pairs judged (after)"
        )
        folder = _save_adapter(peft_model, checkpoint_dir / _ADAPTER, base.id)
        trainable = sum(parameter.numel() for parameter in job.parameters.values())
    result = AdapterResult(
        folder=folder,
        run=run,
        base_id=base.id,
        prompt_hash=judge.prompt_hash,
        pairs_digest=pairs_digest(pairs),
        held_out_digest=pairs_digest(held_out),
        steps=job.total_steps,
        seconds=seconds,
        trainable_parameters=trainable,
        resumed_from=resumed_from,
        reused=False,
        before=measure(held_out, before),
        after=measure(held_out, after),
        curve=_curve_frame(curve),
        held_out=held_out.with_columns(pl.Series("before", before), pl.Series("after", after)),
        settings=settings,
        versions=library_versions(),
    )
    _store_result(result, checkpoint_dir)
    return result


def training_run_digest(judge: YesNoJudge, pairs: pl.DataFrame, settings: AdapterSettings) -> str:
    """Digest of all that determines a training: model, prompt, pairs and settings (but not how often it saves)."""
    options = settings.model_dump(exclude={"checkpoint_every"})
    return digest_json([_FORMAT, judge.model.id, judge.prompt_hash, pairs_digest(pairs), options])


def load_result(checkpoint_dir: Path, run: str | None = None) -> AdapterResult | None:
    """The finished training in ``checkpoint_dir`` (of ``run``, if given), or ``None``."""
    stored = read_json(checkpoint_dir / _RESULT)
    if stored is None or (run is not None and stored["run"] != run):
        return None
    if not (checkpoint_dir / _ADAPTER / "adapter_model.safetensors").is_file():
        return None
    curve = _curve_frame(stored.pop("curve"))
    return AdapterResult(
        **{
            **stored,
            "folder": checkpoint_dir / _ADAPTER,
            "reused": True,
            "before": HeldOutReport(**stored["before"]),
            "after": HeldOutReport(**stored["after"]),
            "settings": AdapterSettings(**stored["settings"]),
            "curve": curve,
            "held_out": pl.read_parquet(checkpoint_dir / _HELD_OUT),
        }
    )


def library_versions() -> dict[str, str]:
    """The versions of what an adapter's weights mean something to."""
    return {name: version(name) for name in ("torch", "transformers", "peft", "safetensors")}


# ---------------------------------------------------------------------------------------------------------- the adapter


def lora_targets(model: Any, names: Sequence[str]) -> str:
    """A regular expression that PEFT matches to whole module names: ``names`` inside the language model only.

    Raises ``AdapterError`` when the model has no such linear layers there.
    """
    import torch

    decoder = _language_model_name(model)
    wanted = "|".join(re.escape(name) for name in names)
    pattern = rf"{re.escape(decoder)}\.(?:.*\.)?(?:{wanted})"
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    if not any(re.fullmatch(pattern, name) for name in linear):
        inside = sorted({name.rsplit(".", 1)[-1] for name in linear if name.startswith(decoder + ".")})
        raise AdapterError(
            f"reranking.adapter.target_modules = {list(names)}: none is a linear layer of the language model; "
            f"its linear layers are called {inside}"
        )
    return pattern


def _language_model_name(model: Any) -> str:
    """The dotted name of the text decoder inside an image-text-to-text model."""
    decoder = model.get_decoder()
    for name, module in model.named_modules():
        if module is decoder and name:
            break
    else:
        name = ""
    towers = ("visual", "vision_tower", "vision_model")
    if not name or any(hasattr(decoder, tower) for tower in towers):
        inner = [n for n, _ in model.named_modules() if n.split(".")[-1] in LANGUAGE_MODEL_NAMES]
        if not inner:
            raise AdapterError(
                f"{type(model).__name__}: its language model was not found; it cannot be adapted"
            )
        name = min(inner, key=len)
    return name


class _adapted:
    """LoRA layers inside ``base.model`` for the duration of a ``with`` block; taken out again at its end."""

    def __init__(self, base: MultimodalModel, settings: AdapterSettings) -> None:
        self._base, self._settings = base, settings

    def __enter__(self) -> Any:
        import torch
        from peft import LoraConfig, get_peft_model

        model, settings = self._base.model, self._settings
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=lora_targets(model, settings.target_modules),
            bias="none",
        )
        self._was_trainable = {
            name for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        with torch.random.fork_rng(devices=_cuda_devices(self._base.device)):
            torch.manual_seed(settings.seed)
            # The base is on its device already: LoRA layers made before a move may silently not be trained.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # PEFT's own use of transformers
                self._peft_model = get_peft_model(model, config)
        return self._peft_model

    def __exit__(self, *_: object) -> None:
        model = self._peft_model.unload()
        model.requires_grad_(False)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self._was_trainable)
        # PEFT leaves its marks on the model, and would warn about a second adapter at the next training.
        for mark in ("peft_config", "_hf_peft_config_loaded"):
            if mark in vars(model):
                delattr(model, mark)
        model.eval()


def _trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _save_adapter(peft_model: Any, folder: Path, base_id: str) -> Path:
    """A PEFT adapter folder, without the model card that PEFT would add and without this machine's paths."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()},
        partial / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    config = peft_model.peft_config["default"]
    config.base_model_name_or_path, config.inference_mode = base_id, True
    config.save_pretrained(str(partial))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


# --------------------------------------------------------------------------------------------------------- the training


@dataclass(frozen=True)
class _LabelledQuery:
    query: JudgedQuery
    labels: tuple[bool, ...]


_Group = tuple[_LabelledQuery, ...]
"""All pairs of one group: its own query, and those with a shuffled text."""


def _groups_of(pairs: pl.DataFrame, pictures: Mapping[str, Picture]) -> list[_Group]:
    found: dict[str, dict[tuple[str, str], list[tuple[str, bool]]]] = {}
    columns = pairs.select("group", "reference_id", "modification", "candidate_id", "label")
    for group, reference, text, candidate, label in columns.iter_rows():
        found.setdefault(group, {}).setdefault((reference, text), []).append((candidate, label))
    return [
        tuple(
            _LabelledQuery(
                JudgedQuery(pictures[reference], text, tuple(pictures[name] for name, _ in members)),
                tuple(label for _, label in members),
            )
            for (reference, text), members in queries.items()
        )
        for queries in found.values()
    ]


class _Job:
    """One training: which groups at which step, the step itself, and its checkpoints."""

    def __init__(
        self,
        judge: YesNoJudge,
        groups: list[_Group],
        settings: AdapterSettings,
        folder: Path,
        run: str,
    ) -> None:
        import torch

        base = judge.model
        self.judge, self.base, self.groups, self.settings = judge, base, groups, settings
        self.folder, self.run = folder, run
        self.parameters = _trainable(base.model)
        self.optimiser = torch.optim.AdamW(
            list(self.parameters.values()), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.total_steps = max(1, math.ceil(settings.epochs * len(groups) / settings.groups_per_batch))
        labels = [label for group in groups for query in group for label in query.labels]
        # Five No to one Yes: unweighted, d = 0 would not be the border between them.
        share = max(sum(labels), 1) / len(labels)
        self.weights = {True: 0.5 / share, False: 0.5 / max(1 - share, 1 / len(labels))}
        self.micro_batch = settings.groups_per_batch
        self.economical = self._check_economical()

    def train(
        self, progress: Progress, on_metrics: OnMetrics | None
    ) -> tuple[list[tuple[int, float, float]], int, float]:
        """``(curve, step it resumed from, seconds spent before)``; on return the model holds the last step's weights."""
        state = load_checkpoint(self.folder, self.parameters, self.optimiser, self.run) or {}
        start, earlier = int(state.get("step", 0)), float(state.get("seconds", 0.0))
        curve = [(int(step), float(loss), float(rate)) for step, loss, rate in state.get("curve", [])]
        _replay(curve, on_metrics)
        began = time.monotonic()
        progress(start, self.total_steps, "adapter training steps")
        for step in range(start, self.total_steps):
            loss, rate = self._step(step)
            curve.append((step + 1, loss, rate))
            _replay(curve[-1:], on_metrics)
            progress(step + 1, self.total_steps, "adapter training steps")
            if (step + 1) % self.settings.checkpoint_every == 0 or step + 1 == self.total_steps:
                spent = earlier + time.monotonic() - began
                save_checkpoint(
                    self.folder,
                    self.parameters,
                    self.optimiser,
                    {"run": self.run, "step": step + 1, "seconds": spent, "curve": curve},
                )
        self.base.model.eval()
        return curve, start, earlier

    def batch_at(self, step: int) -> list[_Group]:
        """The groups of ``step``: epochs are shuffled by the seed and run on into each other."""
        size, count = self.settings.groups_per_batch, len(self.groups)
        return [
            self.groups[_epoch_order(self.settings.seed, place // count, count)[place % count]]
            for place in range(step * size, (step + 1) * size)
        ]

    def _step(self, step: int) -> tuple[float, float]:
        import torch

        rate = learning_rate_at(step, self.total_steps, self.settings)
        for parameter_group in self.optimiser.param_groups:
            parameter_group["lr"] = rate
        batch = self.batch_at(step)
        self.base.model.train()
        with torch.random.fork_rng(devices=_cuda_devices(self.base.device)):
            loss = self._accumulate(batch, step)
        if not math.isfinite(loss):
            raise AdapterError(
                f"the loss at step {step + 1} is {loss}: lower reranking.adapter.learning_rate "
                f"(now {self.settings.learning_rate}) or set models.judge.dtype to bfloat16 or float32"
            )
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), _CLIP_NORM)
        self.optimiser.step()
        return loss, rate

    def _accumulate(self, batch: list[_Group], step: int) -> float:
        """Gradients of the whole batch, in parts that fit in memory; the mean loss."""
        import torch

        while True:
            # Dropout depends on the step alone, not on what ran before: a resumed training draws the same.
            torch.manual_seed(self.settings.seed * 1_000_003 + step)
            self.optimiser.zero_grad(set_to_none=True)
            parts = [
                batch[start : start + self.micro_batch] for start in range(0, len(batch), self.micro_batch)
            ]
            try:
                return sum(self._backward(part, batch) for part in parts)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self._halve()  # outside the handler: the exception's frames would keep the tensors alive

    def _halve(self) -> None:
        if self.micro_batch == 1:
            raise AdapterError(
                "not even one group of pairs fits in memory for training; use a smaller model, bfloat16, or smaller images"
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.micro_batch //= 2
        release_memory()
        _LOG.warning(
            "a batch did not fit in memory: training goes on with %d groups at a time; the result is the same",
            self.micro_batch,
        )

    def _backward(self, part: list[_Group], batch: list[_Group]) -> float:
        import torch

        queries = [query for group in part for query in group]
        labels = [label for query in queries for label in query.labels]
        whole = sum(self.weights[label] for group in batch for query in group for label in query.labels)
        difference = self._differences([query.query for query in queries])
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            difference,
            torch.tensor(labels, dtype=torch.float32, device=difference.device),
            weight=torch.tensor([self.weights[label] for label in labels], device=difference.device),
            reduction="sum",
        )
        loss = losses / whole
        loss.backward()
        return float(loss.detach())

    def _differences(self, queries: Sequence[JudgedQuery]) -> Tensor:
        """float32 [pairs]: d of all candidates of ``queries``, in order, with gradients."""
        if not self.economical:
            return self._plain_differences(queries)
        prefixes: list[TokenRow] = []
        owners: list[int] = []
        suffixes: list[TokenRow] = []
        for owner, query in enumerate(queries):
            prefix, rows = self.base.judge_rows(self.judge.prompt(query), query.reference, query.candidates)
            prefixes.append(prefix)
            owners += [owner] * len(rows)
            suffixes += rows
        # One prefix serves all of a query's candidates: half the tokens of whole sequences, and gradients flow through.
        return self.base.answer_differences(self.base.encode_prefixes(prefixes), owners, suffixes)

    def _plain_differences(self, queries: Sequence[JudgedQuery]) -> Tensor:
        requests = [
            (self.judge.prompt(query), {REFERENCE: query.reference, CANDIDATE: candidate})
            for query in queries
            for candidate in query.candidates
        ]
        logits = self.base.model(**self.base._plain_inputs(requests), logits_to_keep=1).logits[:, -1].float()
        return logits[:, self.base.yes_id] - logits[:, self.base.no_id]

    def _check_economical(self) -> bool:
        self.base.model.eval()
        sample = [
            (
                self.judge.prompt(query.query),
                {REFERENCE: query.query.reference, CANDIDATE: query.query.candidates[0]},
            )
            for group in self.groups[:8]
            for query in group
        ]
        return self.base.check_economical(sample)


def learning_rate_at(step: int, total: int, settings: AdapterSettings) -> float:
    """Linear warm-up, then half a cosine down to a hundredth; ``step`` counts from 0."""
    warmup = round(settings.warmup_share * total)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, count: int) -> list[int]:
    order = list(range(count))
    Random(f"epoch/{seed}/{epoch}").shuffle(order)  # noqa: S311 - reproducible, not secret
    return order


def _cuda_devices(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type == "cuda" else []


# ----------------------------------------------------------------------------------------------------------- the result


def _scores_before(
    judge: YesNoJudge,
    held_out: pl.DataFrame,
    pictures: Mapping[str, Picture],
    folder: Path,
    run: str,
    progress: Progress,
) -> np.ndarray:
    """The base judge's scores: a fresh LoRA adds nothing. Kept, so that a resumed training does not judge again."""
    stored = read_json(folder / _BEFORE)
    if stored is not None and stored["run"] == run:
        return np.asarray(stored["scores"], dtype=np.float32)
    scores = judge_pair_frame(
        judge, held_out, pictures, progress=progress, what="held-out pairs judged (before)"
    )
    write_json(folder / _BEFORE, {"run": run, "scores": [float(score) for score in scores]})
    return scores


def _store_result(result: AdapterResult, folder: Path) -> None:
    write_parquet_atomically(result.held_out, folder / _HELD_OUT)
    stored = {
        name: getattr(result, name)
        for name in AdapterResult.__dataclass_fields__
        if name not in ("folder", "reused", "before", "after", "curve", "held_out", "settings")
    }
    stored |= {
        "before": result.before.as_dict(),
        "after": result.after.as_dict(),
        "settings": result.settings.model_dump(),
        "curve": [list(row) for row in result.curve.rows()],
    }
    # Last: its presence says that all the rest is there.
    write_json(folder / _RESULT, stored)


def _curve_frame(curve: Iterable[Sequence[float]]) -> pl.DataFrame:
    schema = {"step": pl.Int64(), "loss": pl.Float64(), "learning_rate": pl.Float64()}
    return pl.DataFrame([tuple(row) for row in curve], schema=schema, orient="row")


def _replay(curve: Iterable[Sequence[float]], on_metrics: OnMetrics | None) -> None:
    if on_metrics is not None:
        for step, loss, rate in curve:
            on_metrics(int(step), {"loss": float(loss), "learning_rate": float(rate)})
