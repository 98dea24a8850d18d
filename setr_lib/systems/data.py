"""What a trained retrieval system learns from and is measured on: triplets, images, and their features."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from setr_lib.errors import SetrError
from setr_lib.hashing import digest_strings
from setr_lib.models.refusals import refusing
from setr_lib.pixels import PictureFile, UnreadableImageError, as_picture_file
from setr_lib.systems.features import PATCHES, PIXELS, ImageFeatures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from setr_lib.spaces.open_clip_space import OpenClipSpace

TRAIN, HELD_OUT = "train", "held_out"
COPY = "copy"
"""The split of an image with the very bytes of a held-out one: neither trained on nor searched."""
_PATCH_BLOCK = 32
"""Images whose patch tokens are made together, where those of all images stay in memory."""
_KEPT_BYTES = 1 << 30
"""How much of patch tokens and pixels stays in memory: what is read again and again is made once."""


def without_images(rows: pl.DataFrame, images: Collection[str]) -> pl.DataFrame:
    """Rows of images or of triplets, less those that show some images.

    Args:
        rows: A frame with ``image_id``, or with ``reference_id`` and ``target_id``.
        images: Their ids.

    Returns:
        The other rows, in order.
    """
    named = [name for name in ("image_id", "reference_id", "target_id") if name in rows.columns]
    return rows.filter(~pl.any_horizontal(pl.col(named).is_in([*images]))) if images else rows


class TrainingDataError(SetrError):
    """A system cannot be trained on these triplets or images; the message says what they lack."""


@dataclass(frozen=True)
class SystemData:
    """Training and held-out triplets of one source, and their images.

    Attributes:
        source: Where they come from: ``"synthesised"``, or the name of a data set.
        triplets: ``split`` (train or held_out), ``reference_id``, ``modification``, ``target_id``.
        images: ``image_id``, ``path``, ``caption``, ``fingerprint``, ``pixels`` and ``split``: every readable
            image once.
            Held-out images are the gallery of the held-out triplets, and no image of a training triplet, nor
            a copy of one (:meth:`without_copies`).
    """

    source: str
    triplets: pl.DataFrame
    images: pl.DataFrame

    @cached_property
    def digest(self) -> str:
        """Digest of the triplets and of the images' content."""
        images = _told_apart(self.images.drop("path"))
        return digest_strings([_digest(self.triplets), _digest(images.sort("image_id"))])

    @cached_property
    def held_out_digest(self) -> str:
        """Digest of the held-out triplets and of the images that they search."""
        known = [name for name in ("image_id", "fingerprint", "pixels") if name in self.images.columns]
        gallery = _told_apart(self.images.filter(split=HELD_OUT).select(known))
        return digest_strings([_digest(self.held_out), _digest(gallery.sort("image_id"))])

    @cached_property
    def copies(self) -> dict[str, list[str]]:
        """The images whose files have the same bytes, sorted, by the id of each; images without copies are
        left out."""
        read = self.images.filter(pl.col("fingerprint").fill_null("") != "")
        groups = read.group_by("fingerprint").agg(pl.col("image_id").unique().sort())["image_id"]
        several = (group.to_list() for group in groups if len(group) > 1)
        return {image: group for group in several for image in group}

    @property
    def held_out(self) -> pl.DataFrame:
        """The held-out triplets."""
        return self.triplets.filter(split=HELD_OUT)

    @property
    def gallery(self) -> list[str]:
        """The ids that held-out triplets search, sorted."""
        return sorted(self.images.filter(split=HELD_OUT)["image_id"])

    def without(self, images: Collection[str]) -> SystemData:
        """The same data less some images, and the triplets that show them.

        Args:
            images: Their ids.

        Returns:
            The data; this very object where there are none.
        """
        if not images:
            return self
        return replace(
            self, triplets=without_images(self.triplets, images), images=without_images(self.images, images)
        )

    def without_copies(self) -> SystemData:
        """The same data, where no training triplet shows a copy of a held-out image: a file with the same
        bytes under another id.

        Returns:
            The data: such images are of the split ``COPY``, and triplets that show one are left out. This
            very object where there are none.
        """
        is_held_out = pl.col("split") == HELD_OUT
        held_out = self.images.filter(is_held_out, pl.col("fingerprint") != "")["fingerprint"].unique()
        is_copy = ~is_held_out & pl.col("fingerprint").is_in(held_out.implode())
        copies = self.images.filter(is_copy)["image_id"]
        if copies.is_empty():
            return self
        split = pl.when(is_copy.fill_null(value=False)).then(pl.lit(COPY)).otherwise("split")
        return replace(
            self,
            triplets=without_images(self.triplets, [*copies]),
            images=self.images.with_columns(split=split),
        )

    def measurable(self) -> SystemData:
        """The same data, of which some triplets are held out.

        Raises:
            TrainingDataError: None is: versions of a system could not be compared.
        """
        if not self.held_out.height:
            raise TrainingDataError(
                f"no triplet of {self.source!r} is held out, and versions could not be compared: raise "
                "[reranking.pairs] held_out_share, or give more triplets"
            )
        return self

    def training_triplets(self, limit: int | None, seed: int) -> pl.DataFrame:
        """The triplets to train on.

        Args:
            limit: How many, drawn by the seed; all by default.
            seed: Of the draw. A smaller draw of the same seed is part of a larger one.

        Returns:
            Rows of ``triplets``.

        Raises:
            TrainingDataError: There are none.
        """
        rows = self.triplets.filter(split=TRAIN)
        if not rows.height:
            raise TrainingDataError(f"no training triplets come from {self.source!r}")
        return rows[_drawn(rows.height, limit, seed)]

    def with_shuffled_texts(self, share: float, seed: int) -> SystemData:
        """The same triplets, where the texts of a share of the training ones are given to one another.

        Args:
            share: From 0 to 1.
            seed: Of the draw. Held-out triplets stay as they are.

        Returns:
            The noisy triplets. A text may come to a triplet that it fits, where two had the same.
        """
        chosen = self.triplets.with_row_index().filter(split=TRAIN)["index"].to_list()
        Random(f"shuffled texts/{seed}").shuffle(chosen)  # noqa: S311 - reproducible, not secret
        chosen = chosen[: round(share * len(chosen))]
        texts = self.triplets["modification"].to_list()
        given = [texts[row] for row in chosen[1:] + chosen[:1]]
        for row, text in zip(chosen, given, strict=True):
            texts[row] = text
        return replace(self, triplets=self.triplets.with_columns(modification=pl.Series(texts)))

    def training_images(self, limit: int | None, seed: int) -> pl.DataFrame:
        """The images to train on: those that no held-out triplet searches.

        Args:
            limit: How many, drawn by the seed; all by default.
            seed: Of the draw.

        Returns:
            Rows of ``images``, sorted by id before the draw.

        Raises:
            TrainingDataError: There are fewer than two.
        """
        rows = self.images.filter(split=TRAIN).sort("image_id")
        if rows.height < 2:
            raise TrainingDataError(f"{self.source!r} has {rows.height} training images: two are needed")
        return rows[_drawn(rows.height, limit, seed)]


def check_enough(rows: pl.DataFrame, source: str, *, contrasts: bool) -> None:
    """Refuse rows that nothing can be learned from.

    Args:
        rows: The triplets or images that are left to train on.
        source: Where they come from.
        contrasts: Whether the loss sets targets (or images) against one another: it is then the same for
            whatever is learned where there is only one.

    Raises:
        TrainingDataError: There are none; or they have only one target, or are one image, to be contrasted.
    """
    of_triplets = "target_id" in rows.columns
    what, column = ("triplets", "target_id") if of_triplets else ("images", "image_id")
    if rows.is_empty():
        raise TrainingDataError(f"{source!r} has no training {what} whose images can be embedded")
    if contrasts and rows[column].n_unique() < 2:
        one = "have one target image" if of_triplets else "are one image"
        raise TrainingDataError(
            f"the {rows.height} training {what} of {source!r} {one}, and the loss compares different ones: "
            "give more, or raise limit"
        )


def _drawn(count: int, limit: int | None, seed: int) -> list[int]:
    order = list(range(count))
    if limit is None or limit >= count:
        return order
    Random(f"limit/{seed}").shuffle(order)  # noqa: S311 - reproducible, not secret
    return order[:limit]


def _told_apart(images: pl.DataFrame) -> pl.DataFrame:
    """Images without a column that says nothing: none of them is read by rules of its own."""
    if "pixels" in images.columns and images["pixels"].fill_null("").eq("").all():
        return images.drop("pixels")
    return images


def _digest(frame: pl.DataFrame) -> str:
    return digest_strings(digest_strings(str(value) for value in row) for row in frame.iter_rows())


class Features:
    """The features of images, made by the frozen encoder when they are asked for.

    Args:
        encoder: The encoder.
        paths: The file of each image by id, or its path.
        ids: The images of ``vectors``.
        vectors: float32 [images, d]: their unit vectors in the encoder's space.
        reads: Besides vectors: ``PATCHES``, ``PIXELS``.
        kept_bytes: How much of patch tokens and pixels stays in memory.
    """

    def __init__(
        self,
        encoder: OpenClipSpace,
        paths: Mapping[str, PictureFile] | Mapping[str, str],
        ids: Sequence[str],
        vectors: NDArray[np.float32],
        reads: frozenset[str],
        kept_bytes: int = _KEPT_BYTES,
    ) -> None:
        self.encoder, self.paths, self.reads = encoder, paths, reads
        self._rows = {image: row for row, image in enumerate(ids)}
        self._vectors = vectors
        self._kept: dict[str, _Kept] = {name: _Kept(kept_bytes) for name in (PATCHES, PIXELS)}
        self._sorted = sorted(paths)
        self._order = {image: place for place, image in enumerate(self._sorted)}
        self._alone: bool | None = None

    def of(self, images: Sequence[str]) -> ImageFeatures:
        """The features of some images, on the encoder's device.

        Args:
            images: Their ids; an id may occur twice.

        Returns:
            The features, row i of image i.

        Raises:
            TrainingDataError: An image has no vector, or cannot be read.
        """
        import torch

        rows = [self._row(image) for image in images]
        device = self.encoder.device
        return ImageFeatures(
            vectors=torch.from_numpy(self._vectors[rows]).to(device),
            patches=self._stacked(images, PATCHES, self._patches) if PATCHES in self.reads else None,
            pixels=self._stacked(images, PIXELS, self._pixels) if PIXELS in self.reads else None,
        )

    def _row(self, image: str) -> int:
        if image not in self._rows:
            raise TrainingDataError(
                f"image {image!r} has no vector: materialise the asset that embeds the training images again"
            )
        return self._rows[image]

    def _stacked(self, images: Sequence[str], kind: str, make: Any) -> Any:
        import torch

        kept, found = self._kept[kind], {}
        distinct = list(dict.fromkeys(images))
        for image in distinct:
            if (known := kept.get(image)) is not None:
                found[image] = known
        for image, made in make([image for image in distinct if image not in found]):
            found[image] = made
            kept.put(image, made)
        return torch.stack([found[image] for image in images]).to(self.encoder.device)

    def _pixels(self, images: Sequence[str]) -> list[tuple[str, Any]]:
        return [(image, self._opened(image)) for image in images]

    def _patches(self, images: Sequence[str]) -> list[tuple[str, Any]]:
        made: list[tuple[str, Any]] = []
        done: set[str] = set()
        for image in images:
            if image not in done:
                block = self._block_of(image)
                made += self._embedded(block)
                done |= {*block}
        return made

    def _block_of(self, image: str) -> list[str]:
        """The images whose patch tokens are made together with this one's: always the same ones, because
        tokens are rounded otherwise in another company, and a resumed training must read the same.
        """
        if self._alone is None:
            size = self._embedded([image])[0][1].nbytes
            self._alone = size * len(self._order) > self._kept[PATCHES].limit
        if self._alone:
            return [image]
        start = self._order[image] // _PATCH_BLOCK * _PATCH_BLOCK
        return self._sorted[start : start + _PATCH_BLOCK]

    def _embedded(self, images: Sequence[str]) -> list[tuple[str, Any]]:
        import torch

        tokens = self.encoder.embed_patches([self._opened(image) for image in images])
        return list(zip(images, torch.from_numpy(tokens), strict=True))

    def _opened(self, image: str) -> Any:
        try:
            return refusing(
                self.encoder.preprocess, as_picture_file(self.paths[image]).read(), self.encoder.id
            )
        except UnreadableImageError as error:
            raise TrainingDataError(
                f"image {image!r} was readable when the training data was made, and is not now: {error}"
            ) from error


class _Kept:
    """Tensors by name, the ones longest unused dropped when they take too much memory."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._tensors: OrderedDict[str, Any] = OrderedDict()

    def get(self, name: str) -> Any:
        if name in self._tensors:
            self._tensors.move_to_end(name)
        return self._tensors.get(name)

    def put(self, name: str, tensor: Any) -> None:
        self._tensors[name] = tensor
        self.bytes += tensor.nbytes
        while self.bytes > self.limit and len(self._tensors) > 1:
            _, dropped = self._tensors.popitem(last=False)
            self.bytes -= dropped.nbytes
