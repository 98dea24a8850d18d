"""The retrieval methods that settings name: loaded once, carried as objects from there on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setr_lib.hashing import fingerprint_file
from setr_lib.near_names import did_you_mean
from setr_lib.records import EmbeddingsRecord
from setr_lib.settings import DEFAULT_SPACE, Settings

if TYPE_CHECKING:
    from setr_lib.methods.method import Method, OptionFile
    from setr_lib.pipeline.context import PipelineContext

_ANCHOR_SHARE = "coarse.anchor_share"
"""The setting that has a field of its own in records, as it had before methods had sections."""


def spaces_of(methods: Iterable[Method]) -> list[str]:
    """The embedding spaces that methods search.

    Args:
        methods: Retrieval methods.

    Returns:
        Their spaces, once each: ``clip`` first where it is one of them, the others as they come.
    """
    found = list(dict.fromkeys(method.space for method in methods))
    return sorted(found, key=lambda space: space != DEFAULT_SPACE)


def _check_names(listed: Mapping[str, Method]) -> None:
    """Raise ``MethodError`` where two methods of the settings are called the same: tables and rows know a
    method by its own name.
    """
    from setr_lib.methods.inputs import MethodError

    spelled: dict[str, str] = {}
    for name, method in listed.items():
        if (other := spelled.setdefault(method.name, name)) != name:
            raise MethodError(
                f"[coarse] strategies: {other!r} and {name!r} are both called {method.name!r}: leave one "
                "out, or rename it"
            )


def _check_chosen(key: str, chosen: Sequence[str], listed: Sequence[str], methods: Sequence[Method]) -> None:
    """Raise ``MethodError`` where a name is of none of the listed methods, neither as settings call it nor as
    it calls itself; or two are of one.
    """
    from setr_lib.methods.inputs import MethodError

    own = dict(zip(listed, (method.name for method in methods), strict=True))
    spelled: dict[str, str] = {}
    for name in chosen:
        if name not in own and name not in own.values():
            known = ", ".join(dict.fromkeys((*own.values(), *listed)))
            raise MethodError(
                f"{key}: {name!r} is not among the [coarse] methods: add it there, or name some of {known}"
            )
        if (other := spelled.setdefault(own.get(name, name), name)) != name:
            raise MethodError(f"{key}: {other!r} and {name!r} are the same method: leave one out")


def _check_options(options: Mapping[str, Mapping[str, Any]], methods: Iterable[Method]) -> None:
    """Raise ``MethodError`` where a section ``[methods.NAME]`` is of no configured method, nor of one that
    such a method wraps, or does not fit the options that the method declares.
    """
    from setr_lib.methods.inputs import MethodError
    from setr_lib.methods.options import check_section, layers

    every = list(methods)
    own = {layer.name: layer for method in every for layer in layers(method)}
    own |= {method.name: method for method in every}
    for name, section in options.items():
        if name not in own:
            known = f"{', '.join(own)}{did_you_mean(name, own)}"
            raise MethodError(f"[methods.{name}]: no configured method is called so; known: {known}")
        check_section(own[name], section)


def _setting(settings: Settings, key: str, method: Method) -> Any:
    from setr_lib.methods.inputs import MethodError

    value: Any = settings
    for part in key.split("."):
        if part not in getattr(type(value), "model_fields", {}):
            raise MethodError(f"retrieval method {method.name!r}: option_keys: there is no setting {key!r}")
        value = getattr(value, part)
    return value


def options_of(settings: Settings, method: Method) -> dict[str, Any]:
    """What settings say to a method: ``[methods.NAME]``, and the settings that it names as ``option_keys``.
    Where it wraps another (``method.wraps``), also what they say to that one.

    Args:
        settings: The settings.
        method: The retrieval method.

    Returns:
        What it finds as ``inputs.options``: a file that an option names (``method.files``) as an absolute
        path.

    Raises:
        MethodError: It names a setting that there is not.
    """
    from setr_lib.methods.options import layers, section_of

    every = layers(method)
    shared = {
        option: _setting(settings, key, layer)
        for layer in reversed(every)
        for option, key in layer.option_keys.items()
    }
    said = section_of(settings.methods, method)
    for file in _files_of(every):
        if isinstance(named := said.get(file.option), str):
            said[file.option] = str(settings.resolve_text(named))
    return {**shared, **said}


def _files_of(methods: Iterable[Method]) -> tuple[OptionFile, ...]:
    return tuple(dict.fromkeys(file for method in methods for file in method.files))


class ConfiguredMethods:
    """The retrieval methods of one settings object, and which of them an evaluation set is ranked by.

    Args:
        context: Settings and tables.
        only: Names of the methods to know of those that settings configure; all by default.
    """

    def __init__(self, context: PipelineContext, only: frozenset[str] | None = None) -> None:
        self._context, self._only = context, only

    @cached_property
    def _named_methods(self) -> dict[str, Method]:
        """The configured methods by what settings call them: loaded once, carried as objects from here on."""
        from setr_lib.methods.method import check_files, get_method

        settings = self._context.settings
        options = settings.coarse
        found = {
            name: get_method(name, settings) for name in (*options.strategies, *options.caption_strategies)
        }
        _check_names(found)
        _check_options(settings.methods, found.values())
        for method in found.values():
            check_files(method, self.options(method))
        if ranked := [found[name] for name in options.strategies]:  # a comparison may be of captions alone
            _check_chosen("[coarse] default", [options.default], options.strategies, ranked)
            _check_chosen("[reranking] methods", settings.reranked_methods, options.strategies, ranked)
        if captioned := [found[name] for name in options.caption_strategies]:
            chosen, among = [options.caption_default], options.caption_strategies
            _check_chosen("[coarse] caption_default", chosen, among, captioned)
        else:
            found[options.caption_default] = get_method(options.caption_default, settings)
        return found

    @property
    def configured(self) -> dict[str, Method]:
        """The retrieval methods that settings name, by their own names; of a context that is narrowed to
        some, these alone.

        Returns:
            Method by name.

        Raises:
            MethodError: One cannot be had, or two are called the same.
        """
        options = self._context.settings.coarse
        every = [self._named_methods[name] for name in (*options.strategies, *options.caption_strategies)]
        return {method.name: method for method in every if self._only is None or method.name in self._only}

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

        own = self.configured
        found = own.get(name) or self._named_methods.get(name)
        return found or get_method(name, self._context.settings, also=own)

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
        """The methods that ``coarse_rankings`` ranks ``key`` by: those of :meth:`of`, less those
        that it has left out because no version of their weights, or of their space's, was promoted.

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
        systems = self._context.weights.systems_of(method)
        return not systems or tables.exists(tables.coarse(key, method.name))

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
        named = [method for method in self._to_rerank if self._has_weights(key, method)]
        every = {method.name: method for method in named}
        if not any(map(ranks_captions, every.values())):
            return list(every.values())
        ranked = {method.name for method in self.of(key)}
        return [method for method in every.values() if method.name in ranked]

    def default(self, key: str) -> Method:
        """The method that reports of an evaluation set are about: that of the settings for images, or for
        captions. In a context that is narrowed to other methods, the first of these that suits the set.

        Args:
            key: The evaluation set.

        Returns:
            The method.
        """
        from setr_lib.methods.method import ranks_captions

        options, proxy = self._context.settings.coarse, self._context.is_caption_proxy(key)
        named = self.get(options.caption_default if proxy else options.default)
        every = list(self.configured.values())
        if self._only is None or named.name in self.configured or not every:
            return named
        return next((method for method in every if ranks_captions(method) == proxy), every[0])

    @property
    def _to_rerank(self) -> list[Method]:
        """The methods whose candidates settings have re-ranked."""
        named = map(self.get, self._context.settings.reranked_methods)
        return [method for method in named if self._only is None or method.name in self.configured]

    @property
    def calibrated(self) -> list[Method]:
        """The methods whose fusion is calibrated on the training images: those that are re-ranked, less those
        that search captions.
        """
        from setr_lib.methods.method import ranks_captions

        named = {method.name: method for method in self._to_rerank}
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
    def caption_spaces(self) -> list[str]:
        """The embedding spaces that a gallery's captions are embedded in: those of the configured methods
        that need their vectors.
        """
        from setr_lib.methods.method import caption_space

        found = map(caption_space, self.configured.values())
        return list(dict.fromkeys(space for space in found if space is not None))

    @property
    def training_spaces(self) -> list[str]:
        """The embedding spaces of the training images: ``clip``, where pairs are mined, and those that are
        searched to calibrate a fusion.
        """
        return list(dict.fromkeys((DEFAULT_SPACE, *spaces_of(self.calibrated))))

    @property
    def texts_needed(self) -> frozenset[str]:
        """Which of ``captions`` and ``compositions`` the configured methods, and those whose candidates are
        re-ranked, read: what the multimodal LLM is asked for.
        """
        from setr_lib.pipeline.texts import written_texts

        return written_texts([*self.configured.values(), *self._to_rerank], self._context.prompts())

    def options(self, method: Method) -> dict[str, Any]:
        """What settings say to a method: ``[methods.NAME]``, and the settings that it names as
        ``option_keys``.

        Args:
            method: The retrieval method.

        Returns:
            What it finds as ``inputs.options``: a file that an option names (``method.files``) as an absolute
            path.

        Raises:
            MethodError: It names a setting that there is not.
        """
        return options_of(self._context.settings, method)

    def recorded_options(self, method: Method) -> dict[str, Any]:
        """A method's options as a ``CoarseRecord`` keeps them.

        Args:
            method: The retrieval method.

        Returns:
            Fields of the record: ``anchor_share`` for that setting, ``options`` for the others, with a file's
            name and the digest of its content in place of its path; without any options, none.
        """
        from setr_lib.methods.options import layers

        others, every = self.options(method), layers(method)
        for file in _files_of(every):
            if file.option in others:
                path = Path(others[file.option])
                others[file.option] = f"{path.name}@{fingerprint_file(path)[:16]}"
        anchor = {
            option for layer in every for option, key in layer.option_keys.items() if key == _ANCHOR_SHARE
        }
        fields = dict[str, Any](("anchor_share", others.pop(option)) for option in anchor)
        return fields | ({"options": others} if others else {})
