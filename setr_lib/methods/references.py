"""The reference images of queries: opened when a method asks for them, and embedded in a space."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from setr_lib.methods.inputs import (
    QUERY_VECTORS,
    REFERENCE_PATCHES,
    REFERENCE_PIXELS,
    MethodError,
)
from setr_lib.models.refusals import CONTROL_TEXT, control_image, refusing, run_without_refused, takes
from setr_lib.pixels import PictureFile, RefusedImageError, UnreadableImageError, as_picture_file
from setr_lib.spaces.space import EmbeddingSpace, checked_vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from setr_lib.methods.method import Method

_LOG = logging.getLogger(__name__)

OF_PICTURES = frozenset({QUERY_VECTORS, REFERENCE_PIXELS, REFERENCE_PATCHES})
"""The needs that are made from the reference pictures."""
_Prepared = tuple[int, Any, str]
"""The row, the preprocessed picture and the text of a query."""
_MADE_BY = {QUERY_VECTORS: "embed_queries", REFERENCE_PATCHES: "embed_patches"}


def check_space_gives(method: Method, space: EmbeddingSpace) -> None:
    """Refuse a method that needs what its embedding space cannot give.

    Args:
        method: The retrieval method.
        space: The embedding space that it searches.

    Raises:
        MethodError: The space lacks ``embed_queries`` or ``embed_patches``, and the method needs them.
    """
    there = {QUERY_VECTORS: space.embeds_queries, REFERENCE_PATCHES: space.embeds_patches}
    for need, is_there in there.items():
        if need in method.needs and not is_there:
            raise MethodError(
                f"retrieval method {method.name!r} needs {need}, which its embedding space {method.space!r} "
                f"({space.id}) cannot give: the space has no {_MADE_BY[need]}; let the method's `space` "
                "name another"
            )


class ReferencePictures:
    """Opens the reference pictures of queries, and embeds them.

    A picture that cannot be read, or that the space refuses, gives a zero row, is named in :attr:`failed`,
    and is logged.

    Args:
        space: The embedding space that methods search.
        paths: The picture's file by image id, or its path.
    """

    def __init__(self, space: EmbeddingSpace, paths: Mapping[str, PictureFile] | Mapping[str, str]) -> None:
        self.space, self._paths = space, paths
        self.failed: dict[str, str] = {}
        """Why a picture that was asked for could not be read, by image id."""

    def pixels(self, images: Sequence[str]) -> list[Image.Image | None]:
        """The opened pictures.

        Args:
            images: Image ids.

        Returns:
            An RGB picture for each, None for one that cannot be read.
        """
        opened = {image: self._open(image) for image in dict.fromkeys(images)}
        self._report(images)
        return [opened[image] for image in images]

    def patches(self, images: Sequence[str]) -> NDArray[np.float32]:
        """The vision tower's patch tokens of pictures; every distinct one is embedded once.

        Args:
            images: Image ids.

        Returns:
            ``float32[images, patches, width]``; zeros for a picture that cannot be read, also where that is
            all of them.

        Raises:
            SpaceError: The space gives no patch tokens.
            MethodError: Not one token for each image, or tokens that are not finite.
        """
        distinct = list(dict.fromkeys(images))
        found: dict[str, NDArray[np.float32]] = {}
        for batch in self._prepared((image, "") for image in distinct):
            found.update(
                (distinct[row], token) for row, token in self._run(batch, distinct, self._patch_tokens)
            )
        self._report(images)
        if not distinct:
            return np.zeros((0, 0, 0), dtype=np.float32)
        nothing = np.zeros(self._patch_shape(found), dtype=np.float32)
        return np.stack([found.get(image, nothing) for image in images])

    def query_vectors(self, images: Sequence[str], texts: Sequence[str]) -> NDArray[np.float32]:
        """Reference pictures and modification texts as one vector each, in batches of the space's size.

        Args:
            images: The references' image ids.
            texts: A modification text for each.

        Returns:
            ``float32[queries, d]``, norm 1. Where the picture cannot be read, that of the text alone, or a
            zero row where the space has none (``embeds_lone_texts``).

        Raises:
            SpaceError: The space cannot embed an image and a text as one query.
        """
        vectors = np.zeros((len(images), self.space.dimension), dtype=np.float32)
        for batch in self._prepared(zip(images, texts, strict=True)):
            for row, vector in self._run(batch, images, self._query_vectors):
                vectors[row] = vector
        lost = [row for row, image in enumerate(images) if image in self.failed]
        if self.space.embeds_lone_texts:
            for start in range(0, len(lost), self.space.batch_size):
                self._add_lone(vectors, lost[start : start + self.space.batch_size], texts)
        self._report(images)
        return vectors

    def _add_lone(self, vectors: NDArray[np.float32], rows: Sequence[int], texts: Sequence[str]) -> None:
        """Put in the vectors of queries whose picture cannot be read."""

        def embed(words: Sequence[str]) -> NDArray[np.float32]:
            return checked_vectors(self.space, self.space.embed_lone_texts(words), len(words))

        ran = run_without_refused([texts[row] for row in rows], embed, lambda: CONTROL_TEXT)
        for place, vector in ran.results.items():
            vectors[rows[place]] = vector
        for place, reason in ran.refused.items():
            self._refuse(texts[rows[place]], reason)

    def _refuse(self, text: str, reason: str) -> None:
        _LOG.warning("%s refuses the text %r (%s): a zero row", self.space.id, text[:80], reason)

    def _patch_shape(self, found: Mapping[str, NDArray[np.float32]]) -> tuple[int, ...]:
        """Of a picture's patch tokens, also where none of those asked for can be read."""
        for tokens in found.values():
            return tokens.shape
        return self._patch_tokens([(0, self.space.preprocess(control_image()), "")]).shape[1:]

    def _patch_tokens(self, batch: Sequence[_Prepared]) -> NDArray[np.float32]:
        tokens = np.asarray(self.space.embed_patches([pixels for _, pixels, _ in batch]), dtype=np.float32)
        if tokens.ndim != 3 or len(tokens) != len(batch) or not np.isfinite(tokens).all():
            raise MethodError(
                f"the embedding space {self.space.id} gave patch tokens of shape {list(tokens.shape)} "
                f"for {len(batch)} images, or some that are not finite"
            )
        return tokens

    def _query_vectors(self, batch: Sequence[_Prepared]) -> NDArray[np.float32]:
        pixels, words = [pixels for _, pixels, _ in batch], [text for _, _, text in batch]
        return checked_vectors(self.space, self.space.embed_queries(pixels, words), len(batch))

    def _run(
        self,
        batch: Sequence[_Prepared],
        images: Sequence[str],
        embed: Callable[[Sequence[_Prepared]], Iterable[NDArray[np.float32]]],
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The row and result of each that the space takes; the others are named as failed."""
        ran = run_without_refused(
            batch, embed, lambda: (0, self.space.preprocess(control_image()), CONTROL_TEXT)
        )
        for place, reason in ran.refused.items():
            row, pixels, text = batch[place]
            if text and takes(embed, lambda pixels=pixels: (0, pixels, CONTROL_TEXT)):
                self._refuse(text, reason)
            else:
                self.failed.setdefault(images[row], f"{self.space.id} refuses it ({reason})")
        for place, result in ran.results.items():
            yield batch[place][0], result

    def _prepared(self, pairs: Iterable[tuple[str, str]]) -> Iterator[list[_Prepared]]:
        """(row, preprocessed picture, text) of what can be read, a batch at a time."""
        batch: list[_Prepared] = []
        for row, (image, text) in enumerate(pairs):
            if (opened := self._open(image)) is not None:
                try:
                    batch.append((row, refusing(self.space.preprocess, opened, self.space.id), text))
                except RefusedImageError as error:
                    self.failed[image] = str(error)
            if len(batch) >= self.space.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _open(self, image: str) -> Image.Image | None:
        if image in self.failed:
            return None
        if image not in self._paths:
            self.failed[image] = "it is not among the gallery's images"
            return None
        try:
            return as_picture_file(self._paths[image]).read()
        except UnreadableImageError as error:
            self.failed[image] = str(error)
            return None

    def _report(self, images: Sequence[str]) -> None:
        lacking = [image for image in dict.fromkeys(images) if image in self.failed]
        if lacking:
            _LOG.warning(
                "%d reference pictures cannot be read, their queries go without them; the first is %s: %s",
                len(lacking),
                lacking[0],
                self.failed[lacking[0]],
            )
