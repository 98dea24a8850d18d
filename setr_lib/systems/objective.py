"""A training step of a trained retrieval system: its batch, drawn by the step alone, and the gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from setr_lib.errors import SetrError
from setr_lib.systems.features import Batch, ImageBatch, TripletBatch
from setr_lib.training.loop import Objective, TrainingError, indices_at

if TYPE_CHECKING:
    from torch import Tensor

    from setr_lib.systems.data import Features
    from setr_lib.systems.models.system_model import SystemModel


class SystemObjective(Objective):
    """What the training of a retrieval system optimises: its loss on triplets, or on images.

    Args:
        name: The system's, for messages.
        model: The system.
        rows: Training triplets (``reference_id``, ``modification``, ``target_id``) or images (``image_id``,
            ``caption``).
        features: Gives the images' features.
        negatives: Mined hard negatives of each triplet, as many for each; none by default.
        copies: The images with the same bytes, by the id of each that has copies: they are one image, and no
            negatives of each other.
    """

    def __init__(
        self,
        name: str,
        model: SystemModel,
        rows: pl.DataFrame,
        features: Features,
        negatives: Sequence[Sequence[str]] = (),
        copies: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.name, self.model, self.rows, self.features = name, model, rows, features
        self.negatives = negatives
        self._first = {image: same[0] for image, same in (copies or {}).items()}
        self.parameters, self.device = model.trained(), model.device
        self.what = f"{name} training steps"

    @property
    def state(self) -> Mapping[str, Tensor]:
        """Tensors besides the parameters that a step changes, e.g. a queue of earlier vectors."""
        return self.model.training_state()

    def gradients(self, step: int) -> float:
        """Leave the gradients of a step's batch; the mean loss."""
        self.model.train()
        loss = self.model.loss(self.batch_at(step))
        loss.backward()
        return float(loss.detach())

    def diverged(self, step: int, loss: float) -> SetrError:
        """What to change where the loss is not finite."""
        return TrainingError(
            f"the loss of {self.name} at step {step + 1} is {loss}: lower systems.{self.name}.learning_rate "
            f"(now {self.model.options.learning_rate})"
        )

    def batch_at(self, step: int) -> Batch:
        """The triplets or images of a step.

        Args:
            step: The step, from 0.

        Returns:
            Their features and texts.
        """
        options = self.model.options
        chosen = indices_at(step, min(options.batch_size, self.rows.height), self.rows.height, options.seed)
        rows = self.rows[chosen]
        if "target_id" not in rows.columns:
            images = rows["image_id"].to_list()
            captions = rows["caption"].fill_null("").to_list()
            return ImageBatch(self.features.of(images), self._told(images), captions)
        references, targets = rows["reference_id"].to_list(), rows["target_id"].to_list()
        mined = [image for index in chosen for image in self.negatives[index]] if self.negatives else []
        return TripletBatch(
            references=self.features.of(references),
            texts=rows["modification"].to_list(),
            targets=self.features.of(targets),
            reference_ids=self._told(references),
            target_ids=self._told(targets),
            negatives=self.features.of(mined) if mined else None,
        )

    def _told(self, images: list[str]) -> list[str]:
        """The ids by which the losses tell images apart: one for all copies of an image."""
        return [self._first.get(image, image) for image in images] if self._first else images
