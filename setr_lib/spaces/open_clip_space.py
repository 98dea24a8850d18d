"""The frozen CLIP encoder of stage 1: images and texts to unit vectors in one embedding space.

Any model that open_clip loads: a built-in architecture with a pretrained tag or file, ``hf-hub:...``, or a
``local-dir:...`` folder. This module knows nothing of galleries and queries.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from setr_lib.hashing import digest_json, digest_strings
from setr_lib.models.batch_sizes import AUTO, BatchSizes
from setr_lib.models.cpu_passes import run_side_by_side
from setr_lib.models.device import OnHalve, pick_device, run_in_batches
from setr_lib.models.hub import load_from_hub
from setr_lib.spaces.identity import digest_weights
from setr_lib.spaces.open_clip_config import download_sources, tag_fault
from setr_lib.spaces.open_clip_pixels import scaling_of
from setr_lib.spaces.space import EmbeddingSpace, SpaceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from numpy.typing import NDArray
    from PIL import Image

    from setr_lib.settings import EncoderSettings, Settings
    from setr_lib.spaces.input_pixels import InputPixels

_LOG = logging.getLogger(__name__)
_LOCAL = "local-dir:"
_RANDOM_SEED = 0
_TOKENIZER_PROBE = "The red dress, but with 3 shorter sleeves & no belt."


class EncoderError(SpaceError):
    """The configured encoder cannot be loaded, or gave vectors that are not finite."""


class OpenClipSpace(EmbeddingSpace):
    """A CLIP model with its preprocessing and tokenizer on one device; its vectors are float32 with norm 1.

    Make one with :meth:`from_settings` or :meth:`load`. Use it from one thread at a time; only
    :meth:`preprocess` may be called from several.

    Args:
        model: The open_clip model.
        preprocess: Its preprocessing: a PIL image to a tensor.
        tokenizer: Its tokenizer: texts to token ids.
        name: The model's name without this machine's folders.
        device: Where the model is.
        batch_size: Images or texts per forward pass. ``auto``: the size at which images are fastest is found
            by trying.
        architecture: open_clip's configuration of the model, as JSON values; part of the identity.
        sizes_file: Where the batch sizes that were found are kept, for ``auto``.

    Attributes:
        id: Identity of weights, architecture and tokenizer: ``name@digest``.
        preprocessing_id: Identity of the image preprocessing.
        dimension: Length of a vector.
    """

    def __init__(
        self,
        model: Any,
        preprocess: Any,
        tokenizer: Any,
        name: str,
        device: torch.device,
        batch_size: int | Literal["auto"] = 32,
        architecture: object = None,
        sizes_file: Path | None = None,
    ) -> None:
        self._model = model.eval().requires_grad_(False)
        self._preprocess = preprocess
        self._tokenizer = tokenizer
        self.device = device
        self.id = f"{name}@{_weights_digest(model, tokenizer, architecture)[:16]}"
        self.preprocessing_id = _preprocessing_id(model)
        self._sizes: BatchSizes | None = None
        if batch_size == AUTO:
            self._sizes = BatchSizes(self.id, self.preprocessing_id, device, sizes_file)
            batch_size = self._sizes.largest
        self.batch_size = batch_size
        self.dimension = self._measure_dimension()

    @classmethod
    def from_settings(cls, settings: Settings) -> OpenClipSpace:
        """Load the encoder of the settings, on the device of the settings.

        Args:
            settings: The project's settings; the section ``models`` is read.

        Returns:
            The encoder.

        Raises:
            EncoderError: The model, its weights or its tokenizer cannot be loaded.
            DeviceError: The device does not exist on this machine.
        """
        models, file = settings.models, settings.batch_sizes
        return cls.load(models.encoder, models.device, name=settings.encoder_name, sizes_file=file)

    @classmethod
    def load(
        cls,
        settings: EncoderSettings,
        device: str | torch.device = "auto",
        *,
        name: str | None = None,
        sizes_file: Path | None = None,
    ) -> OpenClipSpace:
        """Load an encoder through open_clip.

        A built-in architecture without ``pretrained`` gets seeded random weights and a warning: for trying
        out the pipeline only.

        Args:
            settings: The settings section ``models.encoder``.
            device: A torch device, or ``auto``: CUDA, then MPS, then CPU.
            name: The model's name with paths resolved, in place of ``settings.name``.
            sizes_file: Where batch sizes that are found by trying are kept; only for this object by default.

        Returns:
            The encoder.

        Raises:
            EncoderError: The model, its weights or its tokenizer cannot be loaded.
            DeviceError: The device does not exist on this machine.
        """
        full_name = name or settings.name
        torch_device = pick_device(device) if isinstance(device, str) else device
        random_weights = settings.pretrained is None and ":" not in full_name
        _check_local_folder(full_name)
        model, preprocess, tokenizer, architecture = _loaded(full_name, settings.pretrained, torch_device)
        if random_weights:
            _LOG.warning(
                "encoder %s has no pretrained weights: they are random (seed %d), good for a trial only",
                full_name,
                _RANDOM_SEED,
            )
        return cls(
            model,
            preprocess,
            tokenizer,
            _portable_name(full_name, settings.pretrained),
            torch_device,
            settings.batch_size,
            architecture,
            sizes_file,
        )

    @property
    def model(self) -> Any:
        """The open_clip model, frozen; whoever changes it works on a copy."""
        return self._model

    @property
    def tokenizer(self) -> Any:
        """open_clip's tokenizer: a list of texts to token ids, int64 [texts, context]."""
        return self._tokenizer

    @property
    def embeds_patches(self) -> bool:
        """Whether the vision tower gives its patch tokens: open_clip's own vision transformers do."""
        return hasattr(self._model.visual, "output_tokens")

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """Resize, crop and normalise an image to the model's input.

        Args:
            image: Any PIL image.

        Returns:
            float32 [3, height, width] on the CPU.
        """
        return self._preprocess(image)

    @property
    def input_pixels(self) -> InputPixels | None:
        """Known for open_clip's transforms that squash, or resize the short side and cut out the middle."""
        if type(self).preprocess is not OpenClipSpace.preprocess:
            return None
        scaling = scaling_of(self._preprocess)
        return None if scaling is None else scaling.pixels

    def from_input_pixels(self, pixels: NDArray[np.uint8]) -> torch.Tensor:
        """By open_clip's mean and deviation, float32 [images, 3, height, width] on the CPU."""
        scaling = scaling_of(self._preprocess)
        if scaling is None:
            return super().from_input_pixels(pixels)
        import torch

        parts = run_side_by_side(pixels, lambda part: scaling.scaled(pixels[part]), torch.device("cpu"))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def embed_images(
        self,
        images: Sequence[Image.Image | torch.Tensor],
        batch_size: int | None = None,
        on_halve: OnHalve | None = None,
    ) -> NDArray[np.float32]:
        """Embed images.

        Args:
            images: PIL images, or tensors as :meth:`preprocess` gives them.
            batch_size: Images per forward pass, in place of the encoder's own number.
            on_halve: Called as ``on_halve(too_large, next_size)`` when a batch does not fit in memory.

        Returns:
            Unit vectors, float32 [images, dimension], in order.

        Raises:
            EncoderError: A vector is not finite.
            DeviceError: Not even one image fits in memory.
        """
        return self._collect(
            images,
            lambda batch: self._image_vectors(
                [i if hasattr(i, "shape") else self.preprocess(i) for i in batch]
            ),
            batch_size or self.batch_size,
            on_halve,
        )

    def embed_preprocessed(
        self,
        items: Sequence[torch.Tensor],
        batch_size: int | None = None,
        on_halve: OnHalve | None = None,
    ) -> NDArray[np.float32]:
        """Embed images that :meth:`preprocess` has prepared, possibly in other threads.

        Args:
            items: Tensors float32 [3, height, width].
            batch_size: Images per forward pass, in place of the encoder's own number.
            on_halve: Called as ``on_halve(too_large, next_size)`` when a batch does not fit in memory.

        Returns:
            Unit vectors, float32 [images, dimension], in order.

        Raises:
            EncoderError: A vector is not finite.
            DeviceError: Not even one image fits in memory.
        """
        if batch_size is None and self._sizes is not None:
            vectors = self._checked(
                self._sizes.run(items, lambda batch: [*self._image_vectors(batch)], on_halve)
            )
            self.batch_size = self._sizes.largest
            return vectors
        return self._collect(items, self._image_vectors, batch_size or self.batch_size, on_halve)

    def embed_patches(
        self,
        images: Sequence[Image.Image | torch.Tensor],
        batch_size: int | None = None,
        on_halve: OnHalve | None = None,
    ) -> NDArray[np.float32]:
        """The vision tower's patch tokens of images, after its last layer.

        Args:
            images: PIL images, or tensors as :meth:`preprocess` gives them.
            batch_size: Images per forward pass, in place of the encoder's own number.
            on_halve: Called as ``on_halve(too_large, next_size)`` when a batch does not fit in memory.

        Returns:
            float32 [images, patches, width], not normalised.

        Raises:
            SpaceError: The vision tower does not give them.
            DeviceError: Not even one image fits in memory.
        """
        if not self.embeds_patches:
            return super().embed_patches(images)
        pixels: list[Any] = list(images)
        pixels = [item if hasattr(item, "shape") else self.preprocess(item) for item in pixels]
        rows = run_in_batches(pixels, self._patch_tokens, batch_size or self.batch_size, on_halve)
        return np.stack(rows) if rows else np.zeros((0, 0, 0), dtype=np.float32)

    def embed_texts(
        self, texts: Sequence[str], batch_size: int | None = None, on_halve: OnHalve | None = None
    ) -> NDArray[np.float32]:
        """Embed texts. Those longer than the context are truncated; :meth:`count_truncated` counts them.

        Args:
            texts: The texts.
            batch_size: Texts per forward pass, in place of the encoder's own number.
            on_halve: Called as ``on_halve(too_large, next_size)`` when a batch does not fit in memory.

        Returns:
            Unit vectors, float32 [texts, dimension], in order.

        Raises:
            EncoderError: A vector is not finite.
            DeviceError: Not even one text fits in memory.
        """
        return self._collect(texts, self._text_vectors, batch_size or self.batch_size, on_halve)

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Count the texts that are longer than the model's context (mostly 77 tokens) and lose their end.

        Works with every open_clip tokenizer: a text fits where a context longer by one token adds only a
            padding token.

        Args:
            texts: The texts.

        Returns:
            How many of them are truncated.
        """
        if not texts:
            return 0
        length = self._tokenizer.context_length
        padding = self._tokenizer([""], context_length=length)[0, -1]
        exact = self._tokenizer(list(texts), context_length=length)
        longer = self._tokenizer(list(texts), context_length=length + 1)
        cut = (longer[:, :length] != exact).any(dim=1) | (longer[:, length] != padding)
        return int(cut.sum())

    def _collect(
        self, items: Sequence[Any], run: Any, batch_size: int, on_halve: OnHalve | None
    ) -> NDArray[np.float32]:
        return self._checked(run_in_batches(items, run, batch_size, on_halve))

    def _checked(self, rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        if not rows:
            return np.zeros((0, self.dimension), dtype=np.float32)
        vectors = np.stack(rows)
        if not np.isfinite(vectors).all():
            raise EncoderError(
                f"encoder {self.id} gave vectors that are not finite; its weights are damaged or overflow"
            )
        return vectors

    def _image_vectors(self, pixels: Sequence[torch.Tensor]) -> NDArray[np.float32]:
        import torch

        def vectors(part: slice) -> NDArray[np.float32]:
            images = pixels[part]
            stacked = images if isinstance(images, torch.Tensor) else torch.stack(list(images))
            with torch.inference_mode():
                return _unit(self._model.encode_image(stacked.to(self.device)))

        return np.concatenate(run_side_by_side(pixels, vectors, self.device))

    def _patch_tokens(self, pixels: Sequence[torch.Tensor]) -> list[NDArray[np.float32]]:
        import torch

        visual = self._model.visual
        before, visual.output_tokens = visual.output_tokens, True
        try:
            with torch.inference_mode():
                _, tokens = visual(torch.stack(list(pixels)).to(self.device))
        finally:
            visual.output_tokens = before
        return list(tokens.float().cpu().numpy())

    def _text_vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            return _unit(self._model.encode_text(self._tokenizer(list(texts)).to(self.device)))

    def _measure_dimension(self) -> int:
        return int(self._text_vectors([_TOKENIZER_PROBE]).shape[1])


def load_space(
    *,
    device: str = "auto",
    name: str,
    pretrained: str | None = None,
    batch_size: int | Literal["auto"] = 32,
    sizes_file: Path | None = None,
) -> OpenClipSpace:
    """The open_clip model ``name`` as an embedding space: what ``[spaces.NAME] kind = "open_clip"`` makes.

    Args:
        device: A torch device, or ``auto``.
        name: Any name that open_clip knows, ``hf-hub:...`` or ``local-dir:...``.
        pretrained: The tag or file of its weights.
        batch_size: Images or texts at a time, or ``auto``.
        sizes_file: Where batch sizes that are found by trying are kept.

    Returns:
        The space.

    Raises:
        EncoderError: The model, its weights or its tokenizer cannot be loaded.
        DeviceError: The device does not exist on this machine.
    """
    from setr_lib.settings import EncoderSettings

    return OpenClipSpace.load(
        EncoderSettings(name=name, pretrained=pretrained, batch_size=batch_size),
        device,
        sizes_file=sizes_file,
    )


def _unit(features: torch.Tensor) -> NDArray[np.float32]:
    import torch

    return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()


def _loaded(name: str, pretrained: str | None, device: torch.device) -> tuple[Any, Any, Any, Any]:
    """Model, preprocessing, tokenizer and open_clip's configuration of an encoder."""
    import open_clip

    if fault := tag_fault(name, pretrained):
        raise EncoderError(f"models.encoder: {fault}")

    def load() -> tuple[Any, Any, Any, Any]:
        if pretrained is None and ":" not in name:
            model, preprocess = _random_model(name, device)
        else:
            # Unlike create_model_and_transforms, this one refuses to go on with random weights.
            loaded: Any = open_clip.create_model_from_pretrained(name, pretrained, device=device)
            model, preprocess = loaded
        return model, preprocess, open_clip.get_tokenizer(name), open_clip.get_model_config(name)

    try:
        with _quiet_open_clip():
            return load_from_hub(
                download_sources(name, pretrained),
                load,
                kind=EncoderError,
                what=f"models.encoder.name = {name!r}"
                + (f", pretrained = {pretrained!r}" if pretrained else ""),
                remedy='[models.encoder] name = "local-dir:FOLDER", without pretrained',
            )
    except EncoderError:
        raise
    except Exception as error:
        raise EncoderError(
            f'models.encoder: open_clip could not load name = "{name}", '
            f"pretrained = {pretrained!r} ({type(error).__name__}: {error}); see "
            "open_clip.list_pretrained() for names and tags, or give a folder as local-dir:PATH"
        ) from error


def _random_model(name: str, device: torch.device) -> tuple[Any, Any]:
    """Random weights, the same ones in every process, so that the encoder's id identifies them."""
    import open_clip
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_RANDOM_SEED)
        model, _, preprocess = open_clip.create_model_and_transforms(name, device="cpu")
    return model.to(device), preprocess


def _check_local_folder(name: str) -> None:
    """Raise ``EncoderError`` where a local folder lacks its configuration or weights: open_clip only logs."""
    if not name.startswith(_LOCAL):
        return
    folder = Path(name.removeprefix(_LOCAL))
    if not (folder / "open_clip_config.json").is_file():
        raise EncoderError(
            f"{folder}: no open_clip_config.json there; models.encoder.name = local-dir:PATH needs a folder "
            "with that file and the weights beside it"
        )
    if not list(folder.glob("*.safetensors")):
        raise EncoderError(f"{folder}: no *.safetensors weights beside open_clip_config.json")


def _portable_name(name: str, pretrained: str | None) -> str:
    """The model's name without this machine's folders, which are not part of what the model is."""
    if name.startswith(_LOCAL):
        return f"local-dir:{Path(name.removeprefix(_LOCAL)).name}"
    if pretrained is None:
        return name if ":" in name else f"{name}/random"
    return f"{name}/{Path(pretrained).name}"


def _weights_digest(model: Any, tokenizer: Any, architecture: object) -> str:
    """Digest of everything that turns pixels and texts into vectors: weights, architecture and tokenizer.

    Weights alone do not show the number of heads or the activation function; open_clip's configuration does.
    The tokenizer is identified by its token ids of a probe sentence.
    """
    tokens = [str(token) for token in tokenizer([_TOKENIZER_PROBE])[0].tolist()]
    return digest_strings([digest_weights(model), digest_json(architecture), *tokens])


def _preprocessing_id(model: Any) -> str:
    """Identity of the preprocessing: size and resizing in words, and a digest of the whole configuration."""
    config = dict(model.visual.preprocess_cfg)
    size = config["size"]
    width = size if isinstance(size, int) else "x".join(map(str, size))
    words = "-".join(str(config[key]) for key in ("resize_mode", "interpolation") if key in config)
    return f"{width}-{words}-{digest_json(config)[:8]}"


@contextmanager
def _quiet_open_clip() -> Iterator[None]:
    """Silence open_clip, which logs through the root logger, and remove the handler that it installs there.

    What matters of those messages is in the errors raised here.
    """
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    root.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        root.setLevel(level)
        for handler in [handler for handler in root.handlers if handler not in handlers]:
            root.removeHandler(handler)
