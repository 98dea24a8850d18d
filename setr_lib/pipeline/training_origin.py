"""Where training images and triplets come from: what labels are computed from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.settings import Settings
    from setr_lib.training.trained_on import TrainedOn, TripletKind


@dataclass(frozen=True)
class Origin:
    """Where training images and triplets come from.

    Attributes:
        words: As labels name it, e.g. ``"cirr's train triplets"``.
        namespace: Within which image ids mean something.
        triplet_kind: Where its triplets come from.
        benchmarks: The kinds of the benchmarks whose triplets they are.
    """

    words: str
    namespace: str
    triplet_kind: TripletKind
    benchmarks: tuple[str, ...] = ()

    def trained_on(self, images: pl.DataFrame, triplets: pl.DataFrame | None) -> TrainedOn:
        """The record of a training.

        Args:
            images: ``image_id`` and ``fingerprint`` of the images that were used.
            triplets: ``reference_id``, ``modification`` and ``target_id``; None where only images were.

        Returns:
            What is kept in the bundle.
        """
        from setr_lib.training.trained_on import TrainedOn, trained_images, trained_triplets

        used = trained_images(images, self.namespace)
        if triplets is None or triplets.is_empty():
            return TrainedOn(source=f"images of {self.words}", images=used, benchmarks=self.benchmarks)
        return TrainedOn(
            source=self.words,
            images=used,
            triplets=trained_triplets(triplets, self.namespace),
            triplet_kind=self.triplet_kind,
            benchmarks=self.benchmarks,
        )


def origin_of_training(settings: Settings) -> Origin:
    """The origin of what ``[training]`` names.

    Args:
        settings: The settings.

    Returns:
        Captioned images whose triplets are synthesised, a file of triplets, or a data set's train split.
    """
    from setr_lib.training.trained_on import USERS_OWN

    if settings.training.dataset is not None:
        return origin_of_split(settings, settings.training.dataset)
    if settings.training.triplets is not None:
        return Origin("a file of triplets", USERS_OWN, "file")
    return Origin("triplets synthesised from captions", USERS_OWN, "synthesised")


def origin_of_split(settings: Settings, dataset: str) -> Origin:
    """The origin of a data set's train split.

    Args:
        settings: The settings.
        dataset: The data set's name.

    Returns:
        Triplets that people annotated for its benchmark.

    Raises:
        DatasetError: There is no such data set, or it has no train split.
    """
    from setr_lib.benchmarks.sets import train_set

    train = train_set(settings, dataset)
    return Origin(
        f"{train.kind}'s train triplets", train.benchmark.image_namespace(train), "benchmark", (train.kind,)
    )
