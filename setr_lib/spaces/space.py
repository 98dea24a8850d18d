"""What an embedding space is, and how one is found by its name.

A space of one's own is a class with ``id``, ``dimension`` and ``embed_images`` (see :class:`EmbeddingSpace`).
Settings name it in ``[spaces.NAME] kind``: an entry point of the group ``setr.spaces``, or
``package.module:NAME``. The class is called with the table's ``options`` and the device; where it is trained,
its ``with_weights`` with a registered version and the options.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from setr_lib.catalogue import Catalogue
from setr_lib.errors import SetrError
from setr_lib.models.batch_sizes import AUTO
from setr_lib.plugins import load_object
from setr_lib.settings import (
    BLIP2,
    BUILT_IN_SPACES,
    DEFAULT_SPACE,
    OPEN_CLIP,
    SENTENCE_TRANSFORMERS,
    TRAINED_SPACES,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from setr_lib.models.device import OnHalve
    from setr_lib.settings import Settings
    from setr_lib.spaces.input_pixels import InputPixels
    from setr_lib.weights import Weights

_NORM_ERROR = 0.01
"""How far from 1 the norm of a vector may be: half-precision models are not exact."""
ENTRY_POINTS = ("setr.spaces",)


class SpaceError(SetrError):
    """An embedding space cannot be had, or cannot embed what it is asked to."""


class EmbeddingSpace(ABC):
    """A way to turn images into vectors, and, where it has them, texts and composed queries into vectors of
    the same space.

    Attributes:
        id: Identity of the weights, independent of where they lie; for a trained space it holds the version
            (``weights.id``). Part of the name of every table of vectors, so another id means another table.
        preprocessing_id: Identity of the image preprocessing; part of the table's name, too.
        dimension: Length of a vector.
        batch_size: Images per call of ``embed_images``.
        trained: The trained system whose weights its image side needs, by name: an attribute of the class.
            The space, and the methods that search it, are left out while no version is promoted.
    """

    trained: ClassVar[str | None] = None
    id: str
    preprocessing_id: str = "none"
    dimension: int
    batch_size: int = 64

    @classmethod
    def with_weights(cls, weights: Weights, **options: Any) -> EmbeddingSpace:
        """Make the space with trained weights. Called once for a version, in place of the class, where
        ``trained`` says so.

        Args:
            weights: The version: the folders of its bundle, its ``id``, and the device.
            options: ``options`` of ``[spaces.NAME]``.

        Returns:
            The space; its ``id`` holds ``weights.id``.

        Raises:
            SpaceError: The class does not override this.
        """
        raise SpaceError(f"{cls.__name__} has no with_weights(weights) to load them")

    @property
    def embeds_texts(self) -> bool:
        """Whether the space has a text side: a class of its own overrides :meth:`embed_texts`."""
        return type(self).embed_texts is not EmbeddingSpace.embed_texts

    @property
    def embeds_queries(self) -> bool:
        """Whether an image and a text become one vector: a class overrides :meth:`embed_queries`."""
        return type(self).embed_queries is not EmbeddingSpace.embed_queries

    @property
    def embeds_lone_texts(self) -> bool:
        """Whether a query whose image cannot be read has a vector: a class overrides
        :meth:`embed_lone_texts`.
        """
        return type(self).embed_lone_texts is not EmbeddingSpace.embed_lone_texts

    @property
    def embeds_patches(self) -> bool:
        """Whether the space gives patch tokens: a class overrides :meth:`embed_patches`."""
        return type(self).embed_patches is not EmbeddingSpace.embed_patches

    def preprocess(self, image: Image.Image) -> Any:
        """Prepare an image for :meth:`embed_images`; may be called from several threads.

        Args:
            image: An RGB image.

        Returns:
            By default the image itself.
        """
        return image

    @property
    def input_pixels(self) -> InputPixels | None:
        """How a picture is brought to the model's size, where that needs Pillow alone: pictures are then
        decoded and resized in processes of their own, and a batch becomes inputs by
        :meth:`from_input_pixels`. None, the default: by :meth:`preprocess`, in threads.
        """
        return None

    def from_input_pixels(self, pixels: NDArray[np.uint8]) -> Any:
        """Make inputs of the pixels of a batch, equal to the last digit to what :meth:`preprocess` gives.

        Args:
            pixels: uint8 [images, height, width, 3], as :attr:`input_pixels` gives them.

        Returns:
            A sequence for :meth:`embed_preprocessed`, one item per image.

        Raises:
            SpaceError: The space has no :attr:`input_pixels`.
        """
        raise SpaceError(f"the embedding space {self.id} does not say how pixels become its inputs")

    @abstractmethod
    def embed_images(self, images: Sequence[Any]) -> NDArray[np.float32]:
        """Embed images.

        Args:
            images: Images as :meth:`preprocess` gives them.

        Returns:
            Unit vectors, float32 [images, dimension], in order.
        """

    def embed_preprocessed(
        self, items: Sequence[Any], batch_size: int | None = None, on_halve: OnHalve | None = None
    ) -> NDArray[np.float32]:
        """Embed prepared images in batches, smaller ones where memory is short.

        Args:
            items: Images as :meth:`preprocess` gives them.
            batch_size: Images per call, in place of the space's own number.
            on_halve: Called as ``on_halve(too_large, next_size)`` when a batch does not fit in memory.

        Returns:
            Unit vectors, float32 [items, dimension], in order.
        """
        import numpy as np

        from setr_lib.models.device import run_in_batches

        def embedded(batch: Sequence[Any]) -> list[NDArray[np.float32]]:
            return list(checked_vectors(self, self.embed_images(batch), len(batch)))

        rows = run_in_batches(items, embedded, batch_size or self.batch_size, on_halve)
        return np.stack(rows) if rows else np.zeros((0, self.dimension), dtype=np.float32)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts.

        Args:
            texts: The texts.

        Returns:
            Unit vectors, float32 [texts, dimension], in order.

        Raises:
            SpaceError: The space has no text side.
        """
        raise SpaceError(
            f"the embedding space {self.id} has no text side: a method that encodes texts needs another"
        )

    def embed_captions(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Embed captions of images, which texts are compared with.

        Args:
            captions: The captions.

        Returns:
            Unit vectors, float32 [captions, dimension], in order; by default those of :meth:`embed_texts`. A
            model that has one prompt for queries and another for what is searched overrides it.

        Raises:
            SpaceError: The space has no text side.
        """
        return self.embed_texts(captions)

    def embed_queries(self, images: Sequence[Any], texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed composed queries: a reference image and a modification text become one vector.

        Args:
            images: The reference images, as :meth:`preprocess` gives them.
            texts: A modification text for each.

        Returns:
            Unit vectors, float32 [queries, dimension], in order.

        Raises:
            SpaceError: The space has no query side.
        """
        raise SpaceError(f"the embedding space {self.id} cannot embed an image and a text as one query")

    def embed_lone_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed composed queries whose reference image cannot be read, by their texts alone. Not needed:
        where a space has none, such a query has a zero row.

        Args:
            texts: The modification texts.

        Returns:
            Unit vectors, float32 [texts, dimension], in order.

        Raises:
            SpaceError: The space has no such vectors.
        """
        raise SpaceError(f"the embedding space {self.id} cannot embed a query without its image")

    def embed_patches(self, images: Sequence[Any]) -> NDArray[np.float32]:
        """The vision tower's patch tokens of images.

        Args:
            images: Images as :meth:`preprocess` gives them.

        Returns:
            float32 [images, patches, width], not normalised.

        Raises:
            SpaceError: The space does not give them.
        """
        raise SpaceError(f"the embedding space {self.id} gives no patch tokens")

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Count the texts that are longer than the model reads.

        Args:
            texts: The texts.

        Returns:
            How many lose their end; 0 where there is no limit.
        """
        return 0


def checked_vectors(space: EmbeddingSpace, vectors: Any, count: int) -> NDArray[np.float32]:
    """What a space has made of ``count`` images or queries, if it is as it must be.

    Args:
        space: The space.
        vectors: What it gave.
        count: How many rows there must be.

    Returns:
        Unit vectors, float32 [count, dimension].

    Raises:
        SpaceError: The shape is another one, or a vector is not finite or does not have norm 1.
    """
    import numpy as np

    found = np.asarray(vectors, dtype=np.float32)
    if found.shape != (count, space.dimension):
        raise SpaceError(
            f"the embedding space {space.id} gave vectors of shape {list(found.shape)}, "
            f"not {[count, space.dimension]}"
        )
    norms = np.linalg.norm(found.astype(np.float64), axis=1)
    if not (np.abs(norms - 1) <= _NORM_ERROR).all():  # not finite is not close to 1, either
        raise SpaceError(
            f"the embedding space {space.id} gave a vector of norm "
            f"{float(norms[np.argmax(np.abs(norms - 1))]):g}: divide vectors by their norm, so that their "
            "inner product is a cosine"
        )
    return found


SpaceFactory = Callable[..., Any]
"""A class of spaces, or a function that makes one: called with the settings' options and ``device``."""


def _as_factory(candidate: Any, where: str) -> SpaceFactory:
    if not callable(candidate):
        raise SpaceError(f"{where} is not a class of embedding spaces, nor a function that makes one")
    trained, load = getattr(candidate, "trained", None), getattr(candidate, "with_weights", None)
    inherited = getattr(load, "__func__", None) is getattr(EmbeddingSpace.with_weights, "__func__", None)
    if trained is not None and (not callable(load) or inherited):
        raise SpaceError(
            f"{where} needs the weights of {trained!r}, and has no with_weights(weights) to load them"
        )
    return candidate


def _built_in() -> dict[str, SpaceFactory]:
    from setr_lib.spaces import blip2_space, open_clip_space, sentence_space

    return {
        OPEN_CLIP: open_clip_space.load_space,
        SENTENCE_TRANSFORMERS: sentence_space.load_space,
        BLIP2: blip2_space.load_space,
        # By their paths: trained systems lie above embedding spaces, which do not import them.
        **{kind: load_object(path) for kind, path in TRAINED_SPACES.items()},
    }


CATALOGUE: Catalogue[SpaceFactory] = Catalogue(
    "embedding space", ENTRY_POINTS, _as_factory, SpaceError, _built_in
)


def space_kinds() -> list[str]:
    """Every kind of space that ``[spaces.NAME] kind`` knows without a module's name: built in, and installed
    as entry points.
    """
    return CATALOGUE.names()


def trained_by(name: str, settings: Settings) -> str | None:
    """The trained system whose weights a space needs.

    Args:
        name: The space's name in the settings.
        settings: They say of which kind it is.

    Returns:
        The system's name; None for a space without trained weights.

    Raises:
        SpaceError: Its class cannot be had.
    """
    if name not in settings.spaces or settings.spaces[name].kind in BUILT_IN_SPACES:
        return None
    return getattr(CATALOGUE.get(settings.spaces[name].kind, settings), "trained", None)


def make_space(name: str, settings: Settings, weights: Weights | None = None) -> EmbeddingSpace:
    """Load the space that ``[spaces.NAME]`` describes.

    Args:
        name: Its name in the settings.
        settings: They say of which kind it is, its options and the device.
        weights: The registered version, for a space that is trained.

    Returns:
        The space.

    Raises:
        SpaceError: Settings do not describe it, or it cannot be loaded; the message says where and why.
    """
    from setr_lib.weights import check_id

    if name not in settings.spaces:
        raise SpaceError(f"there is no embedding space {name!r}: {how_to_describe(name, settings)}")
    described = settings.spaces[name]
    where = f"[spaces.{name}] kind = {described.kind!r}"
    factory, options = CATALOGUE.get(described.kind, settings), settings.space_options(name)
    if options.get("batch_size") == AUTO:
        encoder = options.get("kind", OPEN_CLIP) if described.kind in TRAINED_SPACES else described.kind
        if encoder != OPEN_CLIP:
            raise SpaceError(f'{where}: batch_size = "auto" is for open_clip\'s models; write a number')
        options["sizes_file"] = settings.batch_sizes
    if weights is None and (system := trained_by(name, settings)) is not None:
        raise SpaceError(f"{where} is trained by {system!r}: it is opened with a version of its weights")
    try:
        made = (
            factory(**options, device=settings.models.device)
            if weights is None
            else _with_weights(factory, weights, options)
        )
    except SetrError as error:
        raise SpaceError(f"{where}: {error}") from error
    except Exception as error:  # someone else's class may raise anything
        raise SpaceError(
            f"{where} cannot be made with its options and the device: {type(error).__name__}: {error}"
        ) from error
    space = check_space(made, where)
    if weights is not None:
        check_id(where, space.id, weights, SpaceError)
    return space


def _with_weights(factory: Any, weights: Weights, options: Mapping[str, Any]) -> Any:
    from setr_lib.weights import loaded

    return loaded("it", weights, lambda: factory.with_weights(weights, **options), SpaceError)


def how_to_describe(name: str, settings: Settings) -> str:
    """What to do about a space that settings do not describe.

    Args:
        name: The space's name.
        settings: The settings.

    Returns:
        The end of a sentence.
    """
    known = ", ".join(map(repr, (DEFAULT_SPACE, *settings.spaces)))
    if name in TRAINED_SPACES:
        return f'settings know {known}; write a section [spaces.{name}] with kind = "{name}"'
    return (
        f'settings know {known}; write a section [spaces.{name}] with kind = "open_clip", '
        '"sentence_transformers" or package.module:NAME'
    )


def check_space(made: Any, where: str) -> EmbeddingSpace:
    """``made`` as an embedding space.

    Args:
        made: What a factory of spaces gave.
        where: Where it was named, for the message.

    Returns:
        The space.

    Raises:
        SpaceError: It lacks ``id``, ``dimension`` or ``embed_images``.
    """
    lacking = [name for name in ("id", "dimension", "embed_images") if not getattr(made, name, None)]
    if lacking or not isinstance(made, EmbeddingSpace):
        missing = f"it lacks {', '.join(lacking)}" if lacking else "it is not a subclass"
        raise SpaceError(f"{where} is not a setr_lib.spaces.space.EmbeddingSpace: {missing}")
    return made
