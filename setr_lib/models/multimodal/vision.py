"""The vision tower in batches; its outputs are kept in memory, and on disk where settings say so."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from setr_lib.models.device import is_out_of_memory, iterate_in_batches
from setr_lib.models.multimodal.errors import VisionOutputsError, first_line
from setr_lib.models.multimodal.features import VisionFeatures, VisionMemory, by_picture
from setr_lib.models.multimodal.kept_features import FeaturesFolder, KeptFeatures
from setr_lib.models.multimodal.loading import LANGUAGE_MODEL_NAMES, LoadedModel
from setr_lib.models.multimodal.pictures import (
    Picture,
    PictureError,
    image_options,
    prepares_pictures_alone,
    processed,
)
from setr_lib.models.multimodal.prepared_inputs import PreparedInputs
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

_PHOTO = (640, 480)


class VisionTower:
    """The frozen vision part of a model, with a memory of its outputs.

    Pictures of the next batch are read, decoded and processed by a thread while the model works on this one:
    those of one call, and those that :meth:`announce` names.

    Args:
        loaded: The model.
        batch_size: Images per forward pass.
        cache_bytes: Limit of the memory; see :func:`vision_cache_bytes`.
        folder: Where outputs are kept on disk; None for nowhere.
        reusable: Whether the model takes outputs in place of images at all. Where not, none are made.
        several: Whether pictures are those of prompts with several, where the processor prepares these
            otherwise than the only one of its prompt; see :attr:`among`.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        batch_size: int,
        cache_bytes: int,
        folder: FeaturesFolder | None = None,
        *,
        reusable: bool = True,
        several: bool = False,
    ) -> None:
        self.memory = VisionMemory(cache_bytes)
        self._loaded = loaded
        self._batch_size = batch_size
        self._reusable = reusable
        self._several = several
        self._inputs = PreparedInputs(partial(_processed, loaded, several))
        weights = {} if folder is None else _weights_outside_the_language_model(loaded.model)
        self._kept = None if folder is None else KeptFeatures(folder, loaded, weights, several=several)
        self._beside = partial(VisionTower, loaded, batch_size, cache_bytes, folder, reusable=reusable)

    @cached_property
    def among(self) -> VisionTower:
        """The same tower for pictures of prompts that show several.

        Most processors prepare these as they prepare the only one of a prompt, and it is this very tower.
        LLaVA-OneVision cuts a picture that is alone in tiles, and others not.
        """
        if self._several or not self._reusable or not _prepares_several_otherwise(self._loaded.processor):
            return self
        return self._beside(several=True)

    def __contains__(self, picture: Picture) -> bool:
        return picture.identity in self.memory

    def features(self, pictures: Sequence[Picture]) -> list[VisionFeatures]:
        """Vision outputs, each image run at most once while it stays in memory or on disk; no gradient.

        Args:
            pictures: Images, the same one any number of times.

        Returns:
            One output per picture, in order.

        Raises:
            PictureError: Images that are not in memory cannot be read, or the processor refuses them. The
                outputs of the others are in memory then.
            VisionOutputsError: The model gives no outputs of one image each.
            DeviceError: Not even one image fits in memory.
        """
        wanted = {picture.identity: picture for picture in pictures}
        found = {key: self.memory[key] for key in wanted if key in self.memory}
        if self._kept is not None and len(found) < len(wanted):
            found |= self._kept.get([key for key in wanted if key not in found])
        missing = [picture for key, picture in wanted.items() if key not in found]
        made, refused = self._made(missing) if missing else ({}, {})
        if self._kept is not None:
            self._kept.put(made)
        found.update(made)
        self.memory.keep(found)
        if refused:
            raise PictureError(refused=refused)
        return [found[picture.identity] for picture in pictures]

    def announce(self, groups: Iterable[Iterable[Picture]]) -> None:
        """Begin to read, decode and process images whose outputs will be asked for next.

        One batch at most is prepared ahead. What is wrong with an image is said when it is asked for.

        Args:
            groups: Images of one call of :meth:`features` each, in the order of the calls; they replace what
                was announced before.
        """
        batches = []
        for group in groups:
            wanted = {picture.identity: picture for picture in group}
            batches += self._batches([picture for key, picture in wanted.items() if not self._is_kept(key)])
        self._inputs.announce(batches)

    def _is_kept(self, identity: str) -> bool:
        return identity in self.memory or (self._kept is not None and identity in self._kept)

    def _batches(self, pictures: Sequence[Picture]) -> list[Sequence[Picture]]:
        size = self._batch_size
        return [pictures[start : start + size] for start in range(0, len(pictures), size)]

    def _made(self, missing: list[Picture]) -> tuple[dict[str, VisionFeatures], dict[str, str]]:
        """Outputs by identity, and what is wrong with the images that have none."""
        made: dict[str, VisionFeatures] = {}
        refused: dict[str, str] = {}
        while left := [p for p in missing if p.identity not in made and p.identity not in refused]:
            self._inputs.announce_first(self._batches(left))
            try:
                for batch, outputs in iterate_in_batches(left, self.run, self._batch_size):
                    made |= zip((picture.identity for picture in batch), outputs, strict=True)
            except PictureError as error:
                if error.about(left) is None:
                    raise
                refused |= error.refused
        return made, refused

    def precompute(self, pictures: Iterable[Picture], progress: Progress = silent) -> dict[str, str]:
        """Run the tower for every picture that is not in memory, in full batches.

        A model that gives no outputs of single images runs over whole prompts later; its processor alone
        says here which images it refuses.

        Args:
            pictures: Images, the same one any number of times.
            progress: Called as ``progress(done, total, label)`` after each batch.

        Returns:
            What is wrong with each image that cannot be read or that the processor refuses, by identity.
        """
        refused: dict[str, str] = {}
        wanted = {picture.identity: picture for picture in pictures}
        missing = [picture for key, picture in wanted.items() if key not in self.memory]
        done, batches = 0, self._batches(missing)
        self.announce(batches)
        for batch in batches:
            try:
                self._features_or_inputs(batch)
            except PictureError as error:
                if not error.refused:
                    raise
                refused |= error.refused
            done += len(batch)
            progress(done, len(missing), "images seen by the judge")
        return refused

    def _features_or_inputs(self, batch: Sequence[Picture]) -> None:
        try:
            self.features(batch)
        except VisionOutputsError:
            self._inputs.take(batch)

    def run(self, pictures: Sequence[Picture]) -> list[VisionFeatures]:
        """One forward pass of the tower, whatever is in memory; nothing is stored there.

        Args:
            pictures: The images of one batch.

        Returns:
            One output per picture, in order.

        Raises:
            PictureError: Images cannot be read, or the processor refuses them.
            VisionOutputsError: The model gives no outputs of one image each, or another number of them than
                the processor announces image tokens.
        """
        self._require_reusable()
        shown = max(len(pictures), 2) if self._several else len(pictures)
        inputs, placeholders = self._on_device(self._inputs.take(pictures), shown)
        output = self._output(inputs)
        grids = inputs.get("image_grid_thw")
        levels = getattr(output, "deepstack_features", None) or ()
        counts = [ids.count(self._loaded.special_tokens.image_token_id) for ids in placeholders]
        try:
            embeds = by_picture(output.pooler_output, counts)
            deepstack = [by_picture(level, counts) for level in levels]
        except ValueError as error:
            raise VisionOutputsError(
                f"{self._loaded.id}: {error}; the processor and the model do not belong together"
            ) from error
        return [
            VisionFeatures(
                embeds[index],
                tuple(level[index] for level in deepstack),
                None if grids is None else tuple(int(n) for n in grids[index]),  # pyright: ignore[reportArgumentType]
                ids,
                type(output),
                not isinstance(output.pooler_output, (list, tuple)),
            )
            for index, ids in enumerate(placeholders[: len(pictures)])
        ]

    def _require_reusable(self) -> None:
        if not self._reusable:
            raise VisionOutputsError(f"{self._loaded.id} takes no vision outputs in place of images")
        if not self._prepares_alone:
            raise VisionOutputsError(
                f"{self._loaded.id} gives no vision outputs of single images (its processor prepares them in "
                "a way of its own)"
            )

    @cached_property
    def _prepares_alone(self) -> bool:
        return prepares_pictures_alone(self._loaded.processor)

    def _output(self, inputs: Mapping[str, Any]) -> Any:
        """What the model's vision part gives, in its own form, without gradient."""
        import torch

        model = self._loaded.model
        training = model.training
        model.eval()
        try:
            with torch.no_grad():  # not inference_mode: training uses these tensors in a graph
                return model.get_image_features(**inputs, return_dict=True)
        except (AttributeError, IndexError, KeyError, NotImplementedError, TypeError) as error:
            raise self._no_outputs(error) from error
        finally:
            model.train(training)

    def _on_device(self, inputs: Any, count: int) -> tuple[dict[str, Any], list[tuple[int, ...]]]:
        """Inputs of the vision part on the model's device, and the token ids that stand for each image."""
        replace, tokenizer = self._loaded.processor.replace_image_token, self._loaded.tokenizer
        try:
            texts = [replace(inputs, image_idx=index) for index in range(count)]
            placeholders = [tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
            taken = {name: value for name, value in inputs.items() if name in self._named}
            device = self._loaded.device
            return {n: v.to(device) if hasattr(v, "to") else v for n, v in taken.items()}, placeholders
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise self._no_outputs(error) from error

    @cached_property
    def _named(self) -> frozenset[str]:
        """What the model takes of a processor's outputs; the rest only says how many tokens an image has."""
        model = self._loaded.model
        takers = (model.forward, model.get_image_features)
        return frozenset(name for taker in takers for name in inspect.signature(taker).parameters)

    def _no_outputs(self, error: Exception) -> VisionOutputsError:
        reason = f"{type(error).__name__}: {first_line(error)}"
        return VisionOutputsError(f"{self._loaded.id} gives no vision outputs of single images ({reason})")

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
            self.memory, self.among.memory = other.memory, other.among.memory
        return same

    @contextmanager
    def remembering(self, memory: VisionMemory) -> Iterator[None]:
        """Use another memory inside a ``with`` block, and the former one again after it.

        Args:
            memory: The memory, which keeps what is made in the block.
        """
        former, self.memory = self.memory, memory
        try:
            yield
        finally:
            self.memory = former

    @contextmanager
    def separate_memory(self) -> Iterator[None]:
        """Use an empty memory and no folder inside a ``with`` block, and the former ones again after it."""
        towers = (self,) if self.among is self else (self, self.among)
        before = [(tower.memory, tower._kept) for tower in towers]
        for tower in towers:
            tower.memory, tower._kept = VisionMemory(tower.memory.limit), None
        try:
            yield
        finally:
            for tower, (memory, kept) in zip(towers, before, strict=True):
                tower.memory, tower._kept = memory, kept


def _processed(loaded: LoadedModel, several: bool, pictures: Sequence[Picture]) -> Any:
    """The model's inputs of a batch of images on the CPU: each alone in its prompt, or all in one."""
    options = image_options(loaded.processor)

    def process(images: list[Image.Image]) -> Any:
        nested = [[image] for image in images]
        if several:  # the only one of a batch is shown twice; what is made of the second is not read
            nested = [images if len(images) > 1 else images * 2]
        return loaded.processor.image_processor(images=nested, **options)

    return processed(pictures, process, lambda image: process([image]))


def _prepares_several_otherwise(processor: Any) -> bool:
    """Whether a processor gives a picture among several other tokens than one that is alone."""
    from PIL import Image

    photo, options = Image.new("RGB", _PHOTO, (90, 120, 150)), image_options(processor)
    try:
        alone, several = (
            processor.replace_image_token(
                processor.image_processor(images=[[photo] * count], **options), image_idx=0
            )
            for count in (1, 2)
        )
    except Exception as error:  # whatever is wrong is said where pictures of the data are prepared
        if is_out_of_memory(error):
            raise
        return False
    return alone != several


def _weights_outside_the_language_model(model: Any) -> dict[str, Tensor]:
    """All weights but the language model's; where that has an unknown name, its weights are included."""
    named = model.named_parameters()
    return {name: weight for name, weight in named if not LANGUAGE_MODEL_NAMES & {*name.split(".")}}
