"""One step of the judge's LoRA training: the loss of groups of Yes/No pairs and its gradients.

The vision tower is frozen: each image goes through it once in a whole training. All pairs of a query share
their prompt up to the candidate's picture: it is computed once a step, and gradients flow through it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from setr_lib.models.device import is_out_of_memory, release_memory
from setr_lib.models.multimodal import CANDIDATE, REFERENCE, Picture, PictureError, Request
from setr_lib.models.multimodal.errors import first_line
from setr_lib.reranking.lora import AdapterError, trainable_parameters
from setr_lib.reranking.lora_forward import fast_lora
from setr_lib.reranking.scorer import JudgedQuery
from setr_lib.reranking.yes_no_judge import YesNoJudge
from setr_lib.settings import AdapterSettings
from setr_lib.training.loop import Objective, begin_step, indices_at

if TYPE_CHECKING:
    from torch import Tensor

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledQuery:
    """A query with the candidates that it is trained on.

    Attributes:
        query: Reference, modification text and candidates.
        labels: For each candidate, whether it satisfies the query.
    """

    query: JudgedQuery
    labels: tuple[bool, ...]


Group = tuple[LabelledQuery, ...]
"""All pairs of one group: its own query, and those with a shuffled text."""


def groups_of(pairs: pl.DataFrame, pictures: Mapping[str, Picture]) -> list[Group]:
    """Training pairs by group, and in each by query.

    Args:
        pairs: A ``PAIRS`` frame.
        pictures: The images by id.

    Returns:
        The groups, in the order of their first pairs.
    """
    found: dict[str, dict[tuple[str, str], list[tuple[str, bool]]]] = {}
    columns = pairs.select("group", "reference_id", "modification", "candidate_id", "label")
    for group, reference, text, candidate, label in columns.iter_rows():
        found.setdefault(group, {}).setdefault((reference, text), []).append((candidate, label))
    return [
        tuple(
            LabelledQuery(
                JudgedQuery(pictures[reference], text, tuple(pictures[name] for name, _ in members)),
                tuple(label for _, label in members),
            )
            for (reference, text), members in queries.items()
        )
        for queries in found.values()
    ]


class YesNoObjective(Objective):
    """What the adapter's training optimises: the LoRA weights of a judge, on groups of Yes/No pairs.

    Args:
        judge: The judge; its model has LoRA layers.
        groups: The training pairs.
        settings: The adapter's settings.
    """

    what = "adapter training steps"

    def __init__(self, judge: YesNoJudge, groups: list[Group], settings: AdapterSettings) -> None:
        base = judge.model
        self.judge, self.base, self.groups, self.settings = judge, base, groups, settings
        self.parameters, self.device = trainable_parameters(base.model), base.device
        self.fused = base.device.type == "cpu"
        self.total_steps = max(1, math.ceil(settings.epochs * len(groups) / settings.groups_per_batch))
        labels = [label for group in groups for query in group for label in query.labels]
        # Five No to one Yes: unweighted, d = 0 would not be the border between them.
        share = max(sum(labels), 1) / len(labels)
        self.weights = {True: 0.5 / share, False: 0.5 / max(1 - share, 1 / len(labels))}
        self.micro_batch = settings.groups_per_batch
        self.shares_prefixes = self._check_packing()

    def gradients(self, step: int) -> float:
        """Leave the gradients of a step's groups of pairs; the mean loss."""
        self.base.model.train()
        return self._accumulate(self.batch_at(step), step)

    def diverged(self, step: int, loss: float) -> AdapterError:
        """What to change where the loss is not finite."""
        return AdapterError(
            f"the loss at step {step + 1} is {loss}: lower reranking.adapter.learning_rate "
            f"(now {self.settings.learning_rate}) or set models.judge.dtype to bfloat16 or float32"
        )

    def batch_at(self, step: int) -> list[Group]:
        """The groups of a step.

        Args:
            step: The step, from 0.

        Returns:
            The groups.
        """
        size, count = self.settings.groups_per_batch, len(self.groups)
        return [self.groups[index] for index in indices_at(step, size, count, self.settings.seed)]

    def _accumulate(self, batch: list[Group], step: int) -> float:
        """Gradients of the whole batch, in parts that fit in memory; the mean loss."""
        while True:
            begin_step(self.parameters, self.settings.seed, step)
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
                "not even one group of pairs fits in memory for training; use a smaller model, bfloat16, or "
                "smaller images"
            )
        for parameter in self.parameters.values():
            parameter.grad = None
        self.micro_batch //= 2
        release_memory()
        _LOG.warning(
            "a batch did not fit in memory: training goes on with %d groups at a time; the result is the "
            "same",
            self.micro_batch,
        )

    def _backward(self, part: list[Group], batch: list[Group]) -> float:
        queries = [query for group in part for query in group]
        labels = [label for query in queries for label in query.labels]
        whole = sum(self.weights[label] for group in batch for query in group for label in query.labels)
        difference = self._differences([query.query for query in queries])
        losses = yes_no_loss(difference, labels, self.weights)
        loss = losses / whole
        loss.backward()
        return float(loss.detach())

    def _differences(self, queries: Sequence[JudgedQuery]) -> Tensor:
        """float32 [pairs]: d of all candidates of ``queries``, in order, with gradients."""
        if not self.shares_prefixes:
            return self._plain_differences(queries)
        with fast_lora(self.base.model):
            return self._packed_differences(queries)

    def _packed_differences(self, queries: Sequence[JudgedQuery]) -> Tensor:
        rows = [
            self.base.rows.judge_rows(self.judge.prompt(query), query.reference, query.candidates)
            for query in queries
        ]
        return self.base.packed.answer_differences([start for start, _ in rows], [ends for _, ends in rows])

    def _plain_differences(self, queries: Sequence[JudgedQuery]) -> Tensor:
        """The same by the model's own pass, pair by pair, with its vision tower."""
        requests = [self._request(query, picture) for query in queries for picture in query.candidates]
        return self.base.plain.answer_differences(requests)

    def _request(self, query: JudgedQuery, candidate: Picture) -> Request:
        return self.judge.prompt(query), {REFERENCE: query.reference, CANDIDATE: candidate}

    def _check_packing(self) -> bool:
        """Whether shared prefixes give the model's own scores; compared on a few queries, and said if not."""
        import torch

        self.base.model.eval()
        sample = [query.query for group in self.groups[:8] for query in group]
        if not self.base.check_caches([self._request(query, query.candidates[0]) for query in sample]):
            return False  # the model has said why
        ordered = sorted(sample, key=lambda query: len(query.modification))
        few = [replace(query, candidates=query.candidates[:2]) for query in (ordered[0], ordered[-1])]
        with torch.no_grad():
            plain = self._plain_differences(few)
            try:
                packed = self._packed_differences(few)
            except Exception as error:
                if is_out_of_memory(error) or isinstance(error, PictureError):
                    raise
                _LOG.warning(
                    "%s: pairs are trained on one by one (%s); slower", self.base.id, first_line(error)
                )
                return False
        close = 1e-3 if self.base.model.dtype == torch.float32 else 0.5
        if torch.allclose(packed, plain, atol=close, rtol=close):
            return True
        _LOG.warning(
            "%s: scores of pairs that share a prefix, %s, differ from those of its own pass, %s: pairs are "
            "trained on one by one; slower",
            self.base.id,
            packed.tolist(),
            plain.tolist(),
        )
        return False


def yes_no_loss(differences: Tensor, labels: Sequence[bool], weights: Mapping[bool, float]) -> Tensor:
    """Binary cross-entropy on d = logit(Yes) - logit(No), each label with its weight.

    Args:
        differences: float32 [pairs], d of each pair.
        labels: Whether each pair is a Yes.
        weights: The weight of each label.

    Returns:
        The sum over the pairs, a scalar: parts of a batch add up to the whole.
    """
    import torch

    return torch.nn.functional.binary_cross_entropy_with_logits(
        differences,
        torch.tensor(labels, dtype=torch.float32, device=differences.device),
        weight=torch.tensor([weights[label] for label in labels], device=differences.device),
        reduction="sum",
    )
