"""Code versions: what Dagster compares to say that an asset was made by other code, prompts, models or
settings.

A code version is the number of the asset's code, raised by hand when the code computes something else, and a
digest of what the asset reads of the settings. Each asset declares that as ``reads``: settings keys
(``coarse.top_k``), prompts (``prompts:describe``), models (``model:judge``) and embedding spaces
(``spaces:ranked``). A setting that changes no result is in :data:`NOT_READ`.

Digests are made when the code location loads: no model is opened, and a folder that is missing or unreadable
is marked as such; the run that needs it says so.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from setr_assets.own_code import OwnCode
from setr_lib.errors import SetrError
from setr_lib.hashing import digest_json, fingerprint_file, fingerprint_model_folder
from setr_lib.pipeline.context import pipeline_context
from setr_lib.settings import (
    ADAPTER,
    BASE_JUDGE,
    BLIP2,
    BUILT_IN_SPACES,
    DEFAULT_SPACE,
    OPEN_CLIP,
    QWEN_RERANKER,
    RERANKERS,
    SENTENCE_TRANSFORMERS,
    TRAINED_SPACES,
    Settings,
)
from setr_lib.texts.folders import prompt_folder

if TYPE_CHECKING:
    from setr_lib.texts.kind import TextKind


@dataclass(frozen=True)
class When:
    """Reads that depend on other settings: ``reads`` count where ``holds(settings)``."""

    holds: Callable[[Settings], bool]
    reads: tuple[str, ...]


def when(holds: Callable[[Settings], bool], *reads: str) -> When:
    """Reads that count under a condition.

    Args:
        holds: Whether they count with these settings.
        reads: The entries.

    Returns:
        The conditional reads.
    """
    return When(holds, reads)


_OBJECT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*")
"""How settings name an object of a person's own code."""

Reads = Sequence[str | When]
"""What an asset reads of the settings."""

MODELS = {
    "judge": ("models.judge.name", "models.judge.revision", "models.judge.dtype"),
    "encoder": ("models.encoder.name", "models.encoder.pretrained"),
    "reranker": ("models.reranker.name", "models.reranker.revision", "models.reranker.dtype"),
}
"""The settings behind ``model:judge``, ``model:encoder`` and ``model:reranker``; the name stands for the
files of a local folder.
"""
RANKED, RERANKED = "spaces:ranked", "spaces:reranked"
"""The embedding spaces besides ``clip`` that the ranked methods search, and those of the re-ranked ones."""
RANKED_OPTIONS, RERANKED_OPTIONS = "methods:ranked", "methods:reranked"
"""The sections ``[methods.NAME]`` of the ranked methods, and those of the re-ranked ones."""
RANKED_TEXTS, RERANKED_TEXTS = "texts:ranked", "texts:reranked"
"""The generated texts that the ranked methods bring themselves, and those of the re-ranked ones: their
prompts, and of a method of one's own its code."""
DECLARED_OPTIONS = frozenset({"coarse.anchor_share"})
"""Settings of a section of their own that are options of methods: assets declare them by name."""
PROMPTS = "models.judge.prompts"
"""The setting behind ``prompts:TASK``. That entry stands for the files ``TASK.jinja`` and
``TASK.KIND.jinja``; of the judge, for ``judge.jinja`` alone."""
SYSTEM = "system"
"""``system:NAME`` stands for the settings of a trained retrieval system, and for its encoder."""
_SPEED_OF = frozenset({"checkpoint_every", "held_out_points"})
"""Settings of trained retrieval systems that change no result."""
JUDGE = "judge"
"""The task whose prompt is the same for every data set."""
WRITER_PROMPT = "write_modification"
"""A prompt of the code's own, in no prompt set."""

_PLACE = "where files are, not what they hold"
_SPEED = "how fast, not what"
_DATA_SET = (
    "what a data set is and where: a code version is of all partitions, and a new data set must leave the "
    "others current; the data version of queries and gallery_images tells whether a changed one reads "
    "otherwise"
)
_MINIATURE = "what `setr miniature write` draws, outside of the graph; seen as other files are"
NOT_READ = {
    "storage.root": _PLACE,
    "storage.removable_share": "when a person is asked, not what is made",
    "datasets.*.kind": _DATA_SET,
    "datasets.*.root": _DATA_SET,
    "datasets.*.image_root": _DATA_SET,
    "datasets.*.train_root": _DATA_SET,
    "datasets.*.splits": _DATA_SET,
    "datasets.*.queries": _DATA_SET,
    "datasets.*.reference_root": _DATA_SET,
    "datasets.*.outside_links": _DATA_SET,
    "datasets.*.options": _DATA_SET,
    "datasets.*.image_captions": _DATA_SET,
    "coarse.memory_mb": _SPEED,
    "models.device": _SPEED,
    "models.encoder.batch_size": _SPEED,
    "models.judge.batch_size": _SPEED,
    "models.judge.pair_batch_size": _SPEED,
    "models.judge.features_mb": _SPEED,
    "models.judge.vision_memory_mb": _SPEED,
    "models.reranker.pair_batch_size": _SPEED,
    "models.judge.endpoint.url": "where its model is asked; that it is asked at all is read by `when`",
    "models.judge.endpoint.key_variable": "who asks, not what is answered",
    "models.judge.endpoint.concurrency": _SPEED,
    "models.judge.endpoint.timeout": _SPEED,
    "models.judge.endpoint.retries": _SPEED,
    "models.judge.trust_remote_code": "whether a model may load, not what it answers",
    "reranking.adapter.checkpoint_every": "how much a killed training loses",
    "reranking.adapter.held_out_points": "how often a training is looked at",
    "registry.tracking_uri": _PLACE,
    "registry.experiment": "the heading that trainings stand under",
    "registry.evaluations": "the heading that evaluations stand under",
    "registry.log_evaluations": "whether MLflow is told, too",
    "registry.mlflow_ui": "where links lead",
    "registry.dagster_ui": "where links lead",
    "miniature.seed": _MINIATURE,
    "miniature.size": _MINIATURE,
    "miniature.models_seed": _MINIATURE,
    "miniature.training_images": _MINIATURE,
    "miniature.objects_per_scene": _MINIATURE,
    "miniature.near_misses": _MINIATURE,
    "miniature.background_correlation": _MINIATURE,
}
"""Settings that no asset's code version holds, and why."""


def reranked_need(need: str) -> Callable[[Settings], bool]:
    """A condition for :func:`when`: whether a method whose candidates are re-ranked reads a kind of text.

    Args:
        need: ``captions`` or ``compositions``.

    Returns:
        The condition.
    """
    return lambda settings: any(_reads_text(settings, name, need) for name in settings.reranked_methods)


QWEN = When(
    lambda settings: QWEN_RERANKER in settings.reranking.rerankers,
    ("model:reranker", "models.reranker.instruction"),
)
"""What is read of ``[models.reranker]``, where settings name the re-ranker that uses it."""


def reads_key(key: str, *, reranked: bool = False) -> Callable[[Settings], bool]:
    """A condition for :func:`when`: whether a setting is an option of a method (its ``option_keys``).

    Args:
        key: The setting, e.g. ``coarse.anchor_share``.
        reranked: Ask the methods whose candidates are re-ranked, not those that rank.

    Returns:
        The condition.
    """

    def holds(settings: Settings) -> bool:
        names = settings.reranked_methods if reranked else _ranked(settings)
        return any(key in _method_reads(settings, name).option_keys.values() for name in names)

    return holds


def _ranked(settings: Settings) -> tuple[str, ...]:
    """Every method that ranks, as settings name it."""
    return (*settings.coarse.strategies, *settings.coarse.caption_strategies)


def searched_spaces(settings: Settings, methods: Iterable[str]) -> list[str]:
    """The embedding spaces that methods search.

    Args:
        settings: The settings.
        methods: The methods, as settings call them.

    Returns:
        The spaces, once each; all that there are, where a method cannot be loaded.
    """
    found: dict[str, None] = {}
    for name in methods:
        found |= dict.fromkeys(_method_reads(settings, name).spaces)
    return list(found)


BENCHMARKS = "code:benchmarks"
"""An entry of ``reads``: the code of benchmarks that settings name by path."""
OWN_BENCHMARKS = When(
    lambda settings: any(_is_foreign(dataset.kind) for dataset in settings.datasets.values()), (BENCHMARKS,)
)
"""What is read of benchmarks: their code, where a data set names one by path, or an installed one."""


def _is_foreign(kind: str) -> bool:
    return ":" in kind or _benchmark_entry_point(kind) is not None


FindEntryPoint = Callable[[str], EntryPoint | None]
"""Finds what an installed package has under a name; None for what is built in."""


def _method_entry_point(name: str) -> EntryPoint | None:
    from setr_lib.methods.method import CATALOGUE

    return CATALOGUE.entry_point(name)


def _reranker_entry_point(name: str) -> EntryPoint | None:
    if name in RERANKERS:  # registered, or built in: these would import NumPy
        return None
    from setr_lib.reranking.reranker import CATALOGUE

    return CATALOGUE.entry_point(name)


def _space_entry_point(name: str) -> EntryPoint | None:
    from setr_lib.spaces.space import CATALOGUE

    return None if name in BUILT_IN_SPACES or name in TRAINED_SPACES else CATALOGUE.entry_point(name)


def _benchmark_entry_point(name: str) -> EntryPoint | None:
    from setr_lib.benchmarks.registry import CATALOGUE

    return CATALOGUE.entry_point(name)


ENTRY_POINTS: Mapping[str, FindEntryPoint] = {
    "coarse.strategies": _method_entry_point,
    "coarse.caption_strategies": _method_entry_point,
    "coarse.default": _method_entry_point,
    "coarse.caption_default": _method_entry_point,
    "reranking.methods": _method_entry_point,
    "reranking.rerankers": _reranker_entry_point,
    "evaluation.baselines": _method_entry_point,
    "evaluation.caption_baselines": _method_entry_point,
}
"""Settings that name objects, and who knows those that packages have installed."""


def is_own_name(settings: Settings, strategy: str) -> bool:
    """Whether settings call a method that they list as ``package.module:NAME`` by the name that it gives
    itself.
    """
    listed = (*settings.coarse.strategies, *settings.coarse.caption_strategies)
    return ":" not in strategy and strategy not in listed and any(":" in name for name in listed)


_WRITTEN = frozenset({"captions", "compositions"})


class _MethodReads(NamedTuple):
    """What a method reads: embedding spaces of images, the trained system whose weights it ranks with, what
    it says that it needs, generated texts that it brings itself, settings by option, options that name files,
    embedding spaces of captions, and the methods that it wraps, whose options count among its own.
    """

    name: str
    spaces: tuple[str, ...]
    trained: str | None = None
    needs: frozenset[str] = _WRITTEN
    kinds: tuple[TextKind, ...] = ()
    option_keys: Mapping[str, str] = MappingProxyType({})
    files: tuple[str, ...] = ()
    caption_spaces: tuple[str, ...] = ()
    wrapped: tuple[str, ...] = ()


_loaded: dict[tuple[str, ...], _MethodReads] = {}


def _method_reads(settings: Settings, name: str) -> _MethodReads:
    every = (DEFAULT_SPACE, *settings.spaces)
    among = settings.coarse.strategies if is_own_name(settings, name) else ()
    known = (str(settings.base_dir), name, digest_json(settings.methods), *every, *among)
    if known not in _loaded:  # only methods that settings name, and one of one's own may take its time
        try:
            from setr_lib.methods.method import caption_space, get_method, ranks_captions
            from setr_lib.methods.options import layers

            if is_own_name(settings, name):
                method = pipeline_context(settings).methods.get(name)
            else:
                method = get_method(name, settings)
            spaces = () if ranks_captions(method) else (method.space,)
            of_captions = caption_space(method)
            outer, *inner = layers(method)
            files = tuple(file.option for layer in (outer, *inner) for file in layer.files)
            keys = [key for layer in (*reversed(inner), outer) for key in layer.option_keys.items()]
            _loaded[known] = _MethodReads(
                method.name,
                spaces,
                method.trained,
                frozenset(method.needs),
                method.texts,
                dict(keys),
                files,
                () if of_captions is None else (of_captions,),
                tuple(layer.name for layer in inner),
            )
        except SetrError:  # told by the run that needs the method
            return _MethodReads(name, every)
    return _loaded[known]


def _reads_text(settings: Settings, name: str, kind: str) -> bool:
    """Whether a method reads captions, or compositions: itself, or in making texts that it brings."""
    reads = _method_reads(settings, name)
    if kind in reads.needs or not reads.kinds:
        return kind in reads.needs
    try:  # prompts are read for methods that bring texts only: that imports NumPy
        prompts = pipeline_context(settings).prompts()
    except SetrError:  # told by the run that needs them
        return True
    return any(kind in text.made_from(prompts) for text in reads.kinds)


def text_needed(kind: str) -> Callable[[Settings], bool]:
    """A condition for :func:`when`: whether the multimodal LLM is asked for a kind of text at all.

    Args:
        kind: ``captions`` or ``compositions``.

    Returns:
        The condition: that a configured method, or one whose candidates are re-ranked, needs it.
    """

    def holds(settings: Settings) -> bool:
        named = (*_ranked(settings), *settings.reranked_methods)
        return any(_reads_text(settings, name, kind) for name in named)

    return holds


def ranked_systems(settings: Settings) -> list[str]:
    """The trained systems that configured methods, and the embedding spaces that these search, need.

    Args:
        settings: The settings.

    Returns:
        Each system once, by its name.
    """
    return _once([*_of_methods(settings, _ranked(settings)), *embedded_systems(settings)])


def embedded_systems(settings: Settings) -> list[str]:
    """The trained systems whose weights the embedding spaces of the galleries need.

    Args:
        settings: The settings.

    Returns:
        As of :func:`ranked_systems`.
    """
    return _of_spaces(settings, ranked_spaces(settings))


def training_systems(settings: Settings) -> list[str]:
    """The trained systems whose weights the embedding spaces of the training images need.

    Args:
        settings: The settings.

    Returns:
        As of :func:`ranked_systems`.
    """
    return _of_spaces(settings, reranked_spaces(settings))


def reranker_systems(settings: Settings) -> list[str]:
    """The trained systems that configured re-rankers of one's own need; the built-in adapter is not asked.

    Args:
        settings: The settings.

    Returns:
        As of :func:`ranked_systems`.
    """
    if {*settings.reranking.rerankers} <= {BASE_JUDGE, ADAPTER, QWEN_RERANKER}:
        return []
    try:
        configured = pipeline_context(settings).rerankers.configured
    except SetrError:  # told by the run that needs the re-ranker
        return []
    return _once(own.trained for own in configured if own.trained is not None and own.name != ADAPTER)


def calibrated_systems(settings: Settings) -> list[str]:
    """The trained systems behind the methods and re-rankers whose fusion is calibrated, less the adapter.

    Args:
        settings: The settings.

    Returns:
        As of :func:`ranked_systems`.
    """
    methods = _of_methods(settings, settings.reranked_methods)
    return _once([*methods, *training_systems(settings), *reranker_systems(settings)])


def needed_systems(settings: Settings) -> list[str]:
    """The trained systems that anything in the settings needs, less the adapter of the built-in re-ranker.

    Args:
        settings: The settings.

    Returns:
        As of :func:`ranked_systems`.
    """
    return _once([*ranked_systems(settings), *calibrated_systems(settings)])


def _of_methods(settings: Settings, names: Iterable[str]) -> list[str]:
    found = (_method_reads(settings, name).trained for name in names)
    return _once(system for system in found if system is not None)


def _of_spaces(settings: Settings, spaces: Iterable[str]) -> list[str]:
    own = [
        name
        for name in spaces
        if name in settings.spaces and settings.spaces[name].kind not in BUILT_IN_SPACES
    ]
    if not own:
        return []
    from setr_lib.spaces.space import trained_by

    found: list[str] = []
    for name in own:
        try:
            system = trained_by(name, settings)
        except SetrError:  # told by the run that needs the space
            continue
        found += [] if system is None else [system]
    return _once(found)


def _once(names: Iterable[str]) -> list[str]:
    return [*dict.fromkeys(names)]


class _Options(NamedTuple):
    """What settings say to a method: its section, the keys of other sections that it names, and which options
    name files.
    """

    section: Mapping[str, Any]
    keys: Mapping[str, str]
    files: tuple[str, ...]


def _options(settings: Settings, strategies: Iterable[str]) -> dict[str, _Options]:
    """By their own names, what settings say to methods and to those that these wrap; where they say nothing,
    a method is left out.
    """
    found: dict[str, _Options] = {}
    for strategy in strategies:
        facts = _method_reads(settings, strategy)
        keys = {option: key for option, key in facts.option_keys.items() if key not in DECLARED_OPTIONS}
        if (section := settings.methods.get(facts.name)) or keys:
            found[facts.name] = _Options(section or {}, keys, facts.files)
        for inner in facts.wrapped:
            if section := settings.methods.get(inner):
                found.setdefault(inner, _Options(section, {}, facts.files))
    return found


def _ranked_options(settings: Settings) -> dict[str, _Options]:
    return _options(settings, _ranked(settings))


def _reranked_options(settings: Settings) -> dict[str, _Options]:
    return _options(settings, settings.reranked_methods)


def ranked_spaces(settings: Settings) -> list[str]:
    """The embedding spaces that galleries are embedded in and searched.

    Args:
        settings: The settings.

    Returns:
        Their names.
    """
    found = dict.fromkeys(searched_spaces(settings, settings.coarse.strategies))
    for name in _ranked(settings):  # captions are embedded, too
        found |= dict.fromkeys(_method_reads(settings, name).caption_spaces)
    return list(found)


def reranked_spaces(settings: Settings) -> list[str]:
    """The embedding spaces of the methods whose candidates are re-ranked, and whose fusion is calibrated.

    Args:
        settings: The settings.

    Returns:
        Their names.
    """
    return searched_spaces(settings, settings.reranked_methods)


def written_with(holds: Callable[[Settings], bool]) -> When:
    """What generated texts are written with besides the local model: the endpoint's, where one is named.

    Args:
        holds: Whether any text is written.

    Returns:
        The conditional reads.
    """
    return when(
        lambda settings: settings.models.judge.endpoint.url is not None and holds(settings),
        "models.judge.endpoint.model",
    )


def texts_of(texts: str) -> tuple[When, When]:
    """What the generated texts that methods bring themselves are made with.

    Args:
        texts: :data:`RANKED_TEXTS` or :data:`RERANKED_TEXTS`.

    Returns:
        The conditional reads: they count where a method brings any.
    """

    def holds(settings: Settings) -> bool:
        return any(_method_reads(settings, name).kinds for name in _bringing(settings, texts))

    return when(holds, "model:judge", "models.judge.max_new_tokens", texts), written_with(holds)


def _bringing(settings: Settings, texts: str) -> tuple[str, ...]:
    return _ranked(settings) if texts == RANKED_TEXTS else tuple(settings.reranked_methods)


Spaces = Callable[[Settings], list[str]]


def search_of(spaces: Spaces) -> tuple[When, When]:
    """What a search of embedding spaces reads: the encoder, where ``clip`` is one of them, and the other
    spaces.

    Args:
        spaces: :func:`ranked_spaces` or :func:`reranked_spaces`.

    Returns:
        Two conditional reads.
    """
    named = RANKED if spaces is ranked_spaces else RERANKED
    return (
        when(lambda settings: DEFAULT_SPACE in spaces(settings), "model:encoder"),
        when(lambda settings: any(space != DEFAULT_SPACE for space in spaces(settings)), named),
    )


def options_of(ranked: str) -> When:
    """What settings say to methods, where they say anything.

    Args:
        ranked: :data:`RANKED_OPTIONS` or :data:`RERANKED_OPTIONS`.

    Returns:
        The conditional read.
    """
    find = _ranked_options if ranked == RANKED_OPTIONS else _reranked_options
    return when(lambda settings: bool(find(settings)), ranked)


def keys_behind(read: str) -> tuple[str, ...]:
    """The settings keys that an entry of ``reads`` stands for.

    Args:
        read: The entry, e.g. ``model:judge``.

    Returns:
        The keys.
    """
    kind, _, name = read.partition(":")
    if not name:
        return (kind,)
    if kind == SYSTEM:
        return ("systems",)
    if kind in ("spaces", "methods"):
        return (kind,)
    if read == BENCHMARKS:
        return ()
    if kind == "texts":
        return (
            (PROMPTS, "coarse.strategies", "coarse.caption_strategies")
            if read == RANKED_TEXTS
            else (PROMPTS,)
        )
    if kind == "prompts":
        return () if name == WRITER_PROMPT else (PROMPTS,)
    return MODELS[name]


def reads_of(reads: Reads, settings: Settings) -> Iterator[str]:
    """The entries of ``reads`` that count with these settings.

    Args:
        reads: Entries and conditional ones.
        settings: The settings.

    Yields:
        The entries.
    """
    for entry in reads:
        if isinstance(entry, str):
            yield entry
        elif entry.holds(settings):
            yield from entry.reads


class CodeVersions:
    """Makes code versions of one settings object; every file is read once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._values = settings.model_dump(mode="json")
        self._own_code = OwnCode(settings.base_dir)
        self._known: dict[str, Any] = {}

    def version(self, number: str, reads: Reads) -> str:
        """The code version of an asset.

        Args:
            number: The number of the asset's code.
            reads: What the asset reads of the settings.

        Returns:
            ``number``, and where something is read ``number-digest``.

        Raises:
            KeyError: An entry of ``reads`` is not a settings key.
        """
        found = sorted(set(reads_of(reads, self.settings)))
        if not found:
            return number
        return f"{number}-{digest_json([[read, self.value(read)] for read in found])[:12]}"

    def value(self, read: str) -> Any:
        """What an entry of ``reads`` is now.

        Args:
            read: The entry, e.g. ``model:judge``.

        Returns:
            Plain values.
        """
        if read not in self._known:
            self._known[read] = self._find(read)
        return self._known[read]

    def _find(self, read: str) -> Any:
        kind, _, name = read.partition(":")
        if kind == "prompts":
            return _marked(functools.partial(self._prompts, name))
        if kind == SYSTEM:
            return self._system(name)
        if kind == "spaces":
            spaces = (ranked_spaces if read == RANKED else reranked_spaces)(self.settings)
            return {space: self._space(space) for space in spaces if space in self.settings.spaces}
        if read == BENCHMARKS:
            return {
                key: self._with_code(dataset.kind, _benchmark_entry_point)
                for key, dataset in self.settings.datasets.items()
                if _is_foreign(dataset.kind)
            }
        if kind == "texts":
            bringing = sorted(_bringing(self.settings, read))
            return {name: found for name in bringing if (found := self._texts(name)) is not None}
        if kind == "methods":
            options = (_ranked_options if read == RANKED_OPTIONS else _reranked_options)(self.settings)
            return {name: self._said(found) for name, found in sorted(options.items())}
        if name in ("judge", "reranker"):
            loaded = self.settings.judge_name if name == "judge" else self.settings.reranker_name
            folder, key = Path(loaded), MODELS[name][0]
            identity = self._local(folder) if folder.is_dir() else self._setting(key)
            return [identity, *map(self._setting, MODELS[name][1:])]
        if name == "encoder":
            return [
                self._open_clip(self.settings.encoder_name),
                *map(self._setting, MODELS["encoder"][1:]),
            ]
        if ".*." in kind:
            return self._of_data_sets(kind)
        return self._setting(kind)

    def _open_clip(self, name: str) -> Any:
        prefix = "local-dir:"
        if not name.startswith(prefix):
            return name
        return self._local(Path(name.removeprefix(prefix)))

    def _system(self, name: str) -> Any:
        """What ``[systems.NAME]`` says that changes a training, and its encoder."""
        said = {
            key: value for key, value in self.settings.systems.get(name, {}).items() if key not in _SPEED_OF
        }
        encoder = said.get("encoder", DEFAULT_SPACE)
        return [
            said,
            self._space(encoder) if encoder in self.settings.spaces else self.value("model:encoder"),
        ]

    def _space(self, name: str) -> Any:
        """What ``[spaces.NAME]`` says; of a model of the package's kinds also the files of a local folder."""
        described = self._values["spaces"][name]
        kind = described["kind"]
        if kind not in BUILT_IN_SPACES and kind not in TRAINED_SPACES:
            return self._with_code(described) | {"kind": self._with_code(kind, _space_entry_point)}
        read = self.settings.space_options(name)
        said, encoder = described["options"], kind
        if kind in TRAINED_SPACES:
            said, encoder = read, read.get("kind", OPEN_CLIP)
        options = {key: value for key, value in said.items() if key != "batch_size"}
        key, of_model = {
            BLIP2: ("name", self._model_folders),
            SENTENCE_TRANSFORMERS: ("model", self._model_folders),
        }.get(encoder, ("name", self._open_clip))
        return [kind, options | ({key: of_model(read[key])} if isinstance(read.get(key), str) else {})]

    def _model_folders(self, name: str) -> Any:
        """A local model by the files of its folder and of the folders in it, e.g. of its modules."""
        folder = Path(name)
        if not folder.is_dir():
            return name
        parts = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
        return [self._local(part) for part in parts]

    def _said(self, options: _Options) -> dict[str, Any]:
        """What settings say to a method; of a file that an option names also its content, of a method that it
        names by path also the code.
        """
        keys = {option: self._setting(key) for option, key in options.keys.items()}
        files = {
            option: self._file(options.section[option])
            for option in options.files
            if option in options.section
        }
        others = {option: value for option, value in options.section.items() if option not in files}
        return keys | self._with_code(others) | files

    def _file(self, name: Any) -> Any:
        if not isinstance(name, str):
            return name
        return [name, _marked(lambda: fingerprint_file(self.settings.resolve_text(name)))]

    def _setting(self, key: str) -> Any:
        value: Any = self._values
        for part in key.split("."):
            value = value[part]
        return self._with_code(value, ENTRY_POINTS.get(key))

    def _with_code(self, value: Any, entry_point: FindEntryPoint | None = None) -> Any:
        """``value``, each name of an object of one's own in it with the digest of its code: ``package.module:
        NAME``, or where ``entry_point`` finds names of objects that packages have installed, these.
        """
        if isinstance(value, str) and _OBJECT.fullmatch(value):
            return [value, self._own_code.of_module(value.partition(":")[0])]
        if isinstance(value, str) and entry_point is not None and (point := entry_point(value)) is not None:
            return [value, self._own_code.of_entry_point(point)]
        if isinstance(value, list):
            return [self._with_code(item, entry_point) for item in value]
        if isinstance(value, dict):
            return {name: self._with_code(item, entry_point) for name, item in value.items()}
        return value

    def _texts(self, method: str) -> Any:
        """The generated texts that a method brings: its code, where it is not built in, and their prompts."""
        kinds = _method_reads(self.settings, method).kinds
        if not kinds:
            return None
        prompts = {
            kind.name: [kind.task, kind.prompt, _marked(functools.partial(self._prompts, kind.task))]
            for kind in kinds
        }
        return [self._with_code(method, _method_entry_point), prompts]

    def _of_data_sets(self, key: str) -> dict[str, Any]:
        """The values of ``datasets.*.KEY`` that are not the default: a data set with the default changes
        nothing.
        """
        name = key.rpartition(".")[2]
        return {
            dataset: getattr(described, name)
            for dataset, described in self.settings.datasets.items()
            if getattr(described, name) != type(described).model_fields[name].default
        }

    def _prompts(self, task: str) -> dict[str, str]:
        if task == WRITER_PROMPT:
            import setr_lib

            folder = Path(setr_lib.__file__ or "").parent / "reranking"
        else:
            folder = prompt_folder(self.settings.models.judge.prompts, self.settings.base_dir)
        overrides = folder.glob(f"{task}.*.jinja") if task != JUDGE else ()
        return _digests([*folder.glob(f"{task}.jinja"), *overrides])

    def _local(self, folder: Path) -> Any:
        """A model's folder by its name and content."""
        return [folder.name, _marked(lambda: fingerprint_model_folder(folder))]


def _digests(files: Iterable[Path]) -> dict[str, str]:
    return {path.name: fingerprint_file(path) for path in sorted(files)}


def _marked(find: Callable[[], Any]) -> Any:
    """What ``find`` finds; a mark where it cannot be read, which is told by the run that needs it."""
    try:
        return find()
    except OSError as error:
        return f"unreadable: {type(error).__name__}"
