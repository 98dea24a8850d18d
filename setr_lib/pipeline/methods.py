"""The retrieval methods that settings name: loaded once, carried as objects from there on."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from setr_lib.records import EmbeddingsRecord
from setr_lib.settings import DEFAULT_SPACE

if TYPE_CHECKING:
    from setr_lib.methods.method import Method
    from setr_lib.pipeline.context import PipelineContext


def spaces_of(methods: Iterable[Method]) -> list[str]:
    """The embedding spaces that methods search.

    Args:
        methods: Retrieval methods.

    Returns:
        Their spaces, once each: ``clip`` first where it is one of them, the others as they come.
    """
    found = list(dict.fromkeys(method.space for method in methods))
    return sorted(found, key=lambda space: space != DEFAULT_SPACE)


class ConfiguredMethods:
    """The retrieval methods of one settings object, and which of them an evaluation set is ranked by.

    Args:
        context: Settings and tables.
    """

    def __init__(self, context: PipelineContext) -> None:
        self._context = context

    @cached_property
    def _named_methods(self) -> dict[str, Method]:
        """The configured methods by what settings call them: loaded once, carried as objects from here on."""
        from setr_lib.methods.method import get_method

        options = self._context.settings.coarse
        names = (*options.strategies, *options.caption_strategies, options.default, options.caption_default)
        return {name: get_method(name, self._context.settings) for name in names}

    @property
    def configured(self) -> dict[str, Method]:
        """The retrieval methods that settings name, by their own names.

        Returns:
            Method by name.

        Raises:
            MethodError: One cannot be had.
        """
        options = self._context.settings.coarse
        every = [self._named_methods[name] for name in (*options.strategies, *options.caption_strategies)]
        return {method.name: method for method in every}

    def get(self, name: str) -> Method:
        """A retrieval method by its name: its own, or the one that settings call it by.

        Args:
            name: The name.

        Returns:
            The method: a configured one, else any that is known.

        Raises:
            MethodError: There is none.
        """
        from setr_lib.methods.method import get_method

        found = self.configured.get(name) or self._named_methods.get(name)
        return found or get_method(name, self._context.settings)

    def of(self, key: str) -> list[Method]:
        """The configured methods that an evaluation set has material for: vectors, captions of its images, or
        both.

        Args:
            key: The evaluation set.

        Returns:
            The methods, in the order of the settings.

        Raises:
            NotMadeYetError: The gallery was not inspected or embedded yet.
        """
        from setr_lib.methods.method import ranks_captions

        proxy = self._context.is_caption_proxy(key)
        captioned = self._context.tables.read_record("gallery_embeddings", EmbeddingsRecord, key).has_captions
        every = self.configured.values()
        return [method for method in every if (captioned if ranks_captions(method) else not proxy)]

    def ranked(self, key: str) -> list[Method]:
        """The methods that ``coarse_rankings`` ranks ``key`` by: those of :meth:`of`, less the trained ones
        that it has left out because no version was promoted.

        Args:
            key: The evaluation set.

        Returns:
            The methods, in the order of the settings.

        Raises:
            NotMadeYetError: The gallery was not inspected or embedded yet.
        """
        return [method for method in self.of(key) if self._has_weights(key, method)]

    def _has_weights(self, key: str, method: Method) -> bool:
        tables = self._context.tables
        return method.trained is None or tables.exists(tables.coarse(key, method.name))

    def reranked(self, key: str) -> list[Method]:
        """The methods whose candidates are re-ranked for an evaluation set.

        Args:
            key: The evaluation set.

        Returns:
            The methods, in the order of the settings; none where there are no images to look at, or no
            re-rankers. Trained ones as :meth:`ranked` has them.
        """
        from setr_lib.methods.method import ranks_captions

        settings = self._context.settings
        if not settings.reranking.rerankers or self._context.is_caption_proxy(key):
            return []
        named = [
            method for method in map(self.get, settings.reranked_methods) if self._has_weights(key, method)
        ]
        every = {method.name: method for method in named}
        if not any(map(ranks_captions, every.values())):
            return list(every.values())
        ranked = {method.name for method in self.of(key)}
        return [method for method in every.values() if method.name in ranked]

    def default(self, key: str) -> Method:
        """The method that reports of an evaluation set are about: that of the settings for images, or for
        captions.

        Args:
            key: The evaluation set.

        Returns:
            The method.
        """
        options = self._context.settings.coarse
        return self.get(options.caption_default if self._context.is_caption_proxy(key) else options.default)

    @property
    def calibrated(self) -> list[Method]:
        """The methods whose fusion is calibrated on the training images: those that are re-ranked, less those
        that search captions.
        """
        from setr_lib.methods.method import ranks_captions

        named = {method.name: method for method in map(self.get, self._context.settings.reranked_methods)}
        return [method for method in named.values() if not ranks_captions(method)]

    def ranked_in(self, space: str) -> list[Method]:
        """The configured methods that search the vectors of an embedding space.

        Args:
            space: The embedding space.

        Returns:
            The methods, in the order of the settings.
        """
        from setr_lib.methods.method import ranks_captions

        every = self.configured.values()
        return [method for method in every if method.space == space and not ranks_captions(method)]

    @property
    def spaces(self) -> list[str]:
        """The embedding spaces that configured methods search: those that a gallery is embedded in."""
        from setr_lib.methods.method import ranks_captions

        return spaces_of(method for method in self.configured.values() if not ranks_captions(method))

    @property
    def training_spaces(self) -> list[str]:
        """The embedding spaces of the training images: ``clip``, where pairs are mined, and those that are
        searched to calibrate a fusion.
        """
        return list(dict.fromkeys((DEFAULT_SPACE, *spaces_of(self.calibrated))))

    def options(self, method: Method) -> dict[str, Any]:
        """What settings say to a method.

        Args:
            method: The retrieval method.

        Returns:
            What it finds as ``inputs.options``.
        """
        from setr_lib.methods.intersection import ANCHOR_SHARE

        return (
            {ANCHOR_SHARE: self._context.settings.coarse.anchor_share}
            if method.name == "intersection_anchor"
            else {}
        )
