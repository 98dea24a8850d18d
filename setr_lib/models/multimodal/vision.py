"""Outputs of the frozen vision tower and projector: made in batches, kept in memory by image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from setr_lib.models.device import run_in_batches
from setr_lib.models.multimodal.errors import JudgeError
from setr_lib.models.multimodal.loading import LANGUAGE_MODEL_NAMES, LoadedModel
from setr_lib.models.multimodal.pictures import Picture, PictureError, processed
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

VISION_CACHE_BYTES = 6 * 2**30
"""Memory for vision outputs: about 1,500 images of Qwen3-VL-2B at 256 tokens, all of the miniature."""


@dataclass(frozen=True, eq=False)
class VisionFeatures:
    """Output of the vision tower and projector for one image; tensors in the model's dtype, on its device.

    Attributes:
        embeds: [tokens, hidden], what takes the place of the image's placeholder tokens.
        deepstack: [tokens, hidden] for each language layer that adds vision features of its own (Qwen3-VL).
        grid: (time, height, width) in patches, where positions depend on it; else ``None``.
        placeholder: The token ids that stand for the image in a sequence; ``tokens`` of them are the image
            token.
        container: The transformers class in which the model expects such tensors.
    """

    embeds: Tensor
    deepstack: tuple[Tensor, ...]
    grid: tuple[int, int, int] | None
    placeholder: tuple[int, ...]
    container: type[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in (self.embeds, *self.deepstack))


class VisionMemory:
    """Least-recently-used cache of vision outputs, by the identity of images.

    Args:
        limit: Bytes that the kept outputs may take; beyond it, what was not used for the longest time is
            dropped.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        self._kept: OrderedDict[str, VisionFeatures] = OrderedDict()

    def __contains__(self, identity: str) -> bool:
        return identity in self._kept

    def __getitem__(self, identity: str) -> VisionFeatures:
        return self._kept[identity]

    def keep(self, found: Mapping[str, VisionFeatures]) -> None:
        """Store outputs as the most recently used; all of them, even where they alone exceed the limit.

        Args:
            found: Outputs by identity, stored already or new.
        """
        for key, features in found.items():
            if key in self._kept:
                self._kept.move_to_end(key)
            else:
                self._kept[key] = features
                self._taken += features.nbytes
        while self._taken > self.limit and len(self._kept) > len(found):
            _, oldest = self._kept.popitem(last=False)
            self._taken -= oldest.nbytes

    def clear(self) -> None:
        """Drop all outputs."""
        self._kept.clear()
        self._taken = 0


class VisionTower:
    """The frozen vision part of a model, with a memory of its outputs.

    Args:
        loaded: The model.
        batch_size: Images per forward pass.
        cache_bytes: Limit of the memory.
    """

    def __init__(self, loaded: LoadedModel, batch_size: int, cache_bytes: int = VISION_CACHE_BYTES) -> None:
        self.memory = VisionMemory(cache_bytes)
        self._loaded = loaded
        self._batch_size = batch_size

    def __contains__(self, picture: Picture) -> bool:
        return picture.identity in self.memory

    def features(self, pictures: Sequence[Picture]) -> list[VisionFeatures]:
        """Vision outputs, each image run at most once while it stays in memory; no gradient.

        Args:
            pictures: Images, the same one any number of times.

        Returns:
            One output per picture, in order.

        Raises:
            PictureError: Images that are not in memory cannot be read, or the processor refuses them. The
                outputs of the others are in memory then.
            JudgeError: Processor and model do not fit together.
            DeviceError: Not even one image fits in memory.
        """
        wanted = {picture.identity: picture for picture in pictures}
        found = {key: self.memory[key] for key in wanted if key in self.memory}
        missing = [picture for key, picture in wanted.items() if key not in found]
        made, refused = self._made(missing)
        found.update(made)
        self.memory.keep(found)
        if refused:
            raise PictureError(refused=refused)
        return [found[picture.identity] for picture in pictures]

    def _made(self, missing: list[Picture]) -> tuple[dict[str, VisionFeatures], dict[str, str]]:
        """Outputs by identity, and what is wrong with the images that have none."""
        refused: dict[str, str] = {}
        while True:
            left = [picture for picture in missing if picture.identity not in refused]
            try:
                made = run_in_batches(left, self.run, self._batch_size)
            except PictureError as error:
                if error.about(left) is None:
                    raise
                refused |= error.refused
                continue
            return {p.identity: features for p, features in zip(left, made, strict=True)}, refused

    def precompute(self, pictures: Iterable[Picture], progress: Progress = silent) -> dict[str, str]:
        """Run the tower for every picture that is not in memory, in full batches.

        Args:
            pictures: Images, the same one any number of times.
            progress: Called as ``progress(done, total, label)`` after each batch.

        Returns:
            What is wrong with each image that cannot be read or that the processor refuses, by identity.
        """
        refused: dict[str, str] = {}
        wanted = {picture.identity: picture for picture in pictures}
        missing = [picture for key, picture in wanted.items() if key not in self.memory]
        for start in range(0, len(missing), self._batch_size):
            try:
                self.features(missing[start : start + self._batch_size])
            except PictureError as error:
                if not error.refused:
                    raise
                refused |= error.refused
            progress(min(start + self._batch_size, len(missing)), len(missing), "images seen by the judge")
        return refused

    def run(self, pictures: Sequence[Picture]) -> list[VisionFeatures]:
        """One forward pass of the tower, whatever is in memory; nothing is stored there.

        Args:
            pictures: The images of one batch.

        Returns:
            One output per picture, in order.

        Raises:
            PictureError: Images cannot be read, or the processor refuses them.
            JudgeError: The processor announces another number of image tokens than the model makes.
        """
        import torch

        model, processor = self._loaded.model, self._loaded.processor

        def process(images: list[Image.Image]) -> Any:
            return processor.image_processor(images=images, return_tensors="pt")

        inputs = processed(pictures, process, lambda image: process([image]))
        placeholders = [
            processor.replace_image_token(inputs, image_idx=index) for index in range(len(pictures))
        ]
        training = model.training
        model.eval()
        with torch.no_grad():  # not inference_mode: training uses these tensors in a graph
            output = model.get_image_features(**inputs.to(self._loaded.device), return_dict=True)
        model.train(training)
        deepstack = getattr(output, "deepstack_features", None) or ()
        grids = inputs.get("image_grid_thw")
        return [
            VisionFeatures(
                embeds.clone(),
                tuple(level[index].clone() for level in deepstack),
                None if grids is None else tuple(int(n) for n in grids[index]),  # pyright: ignore[reportArgumentType]
                self._placeholder_ids(placeholders[index], embeds.shape[0]),
                type(output),
            )
            for index, embeds in enumerate(output.pooler_output)
        ]

    def share_memory(self, other: VisionTower) -> bool:
        """Use the memory of another tower, where both give the same outputs.

        They do where all weights outside of the language model are equal, as they are in a model and in the
        same model with an adapter of its language model. Otherwise nothing changes.

        Args:
            other: The tower whose memory to use.

        Returns:
            Whether the memory is shared now.
        """
        import torch

        ours = _weights_outside_the_language_model(self._loaded.model)
        theirs = _weights_outside_the_language_model(other._loaded.model)
        same = (
            self._loaded.base_id == other._loaded.base_id
            and self._loaded.device == other._loaded.device
            and ours.keys() == theirs.keys()
            and all(torch.equal(weight, theirs[name]) for name, weight in ours.items())
        )
        if same:
            self.memory = other.memory
        return same

    @contextmanager
    def separate_memory(self) -> Iterator[None]:
        """Use an empty memory inside a ``with`` block, and the former one again after it."""
        kept, self.memory = self.memory, VisionMemory(VISION_CACHE_BYTES)
        try:
            yield
        finally:
            self.memory = kept

    def _placeholder_ids(self, placeholder: str, tokens: int) -> tuple[int, ...]:
        """Token ids of the text that stands for an image, of which ``tokens`` must be the image token."""
        ids = tuple(self._loaded.tokenizer(placeholder, add_special_tokens=False)["input_ids"])
        announced = ids.count(self._loaded.special_tokens.image_token_id)
        if announced != tokens:
            raise JudgeError(
                f"{self._loaded.id}: {announced} image tokens for {tokens} vision outputs; "
                "the processor and the model do not belong together"
            )
        return ids


def _weights_outside_the_language_model(model: Any) -> dict[str, Tensor]:
    """All weights but the language model's; where that has an unknown name, its weights are included."""
    named = model.named_parameters()
    return {name: weight for name, weight in named if not LANGUAGE_MODEL_NAMES & {*name.split(".")}}
