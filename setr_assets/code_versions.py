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
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

from setr_lib.errors import SetrError
from setr_lib.hashing import digest_json, fingerprint_file, fingerprint_model_folder
from setr_lib.pipeline.context import pipeline_context
from setr_lib.settings import DEFAULT_SPACE, OPEN_CLIP, QWEN_RERANKER, SENTENCE_TRANSFORMERS, Settings
from setr_lib.texts.folders import prompt_folder


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
PROMPTS = "models.judge.prompts"
"""The setting behind ``prompts:TASK``. That entry stands for the files ``TASK.jinja`` and
``TASK.KIND.jinja``; of the judge, for ``judge.jinja`` alone."""
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
    "datasets.*.kind": _DATA_SET,
    "datasets.*.root": _DATA_SET,
    "datasets.*.image_root": _DATA_SET,
    "datasets.*.splits": _DATA_SET,
    "datasets.*.queries": _DATA_SET,
    "datasets.*.options": _DATA_SET,
    "datasets.*.image_captions": _DATA_SET,
    "models.device": _SPEED,
    "models.encoder.batch_size": _SPEED,
    "models.judge.batch_size": _SPEED,
    "models.judge.pair_batch_size": _SPEED,
    "models.reranker.pair_batch_size": _SPEED,
    "models.judge.trust_remote_code": "whether a model may load, not what it answers",
    "reranking.adapter.checkpoint_every": "how much a kill can cost",
    "registry.tracking_uri": _PLACE,
    "registry.experiment": "the heading that trainings stand under",
    "miniature.seed": _MINIATURE,
    "miniature.size": _MINIATURE,
    "miniature.models_seed": _MINIATURE,
    "miniature.training_images": _MINIATURE,
    "miniature.objects_per_scene": _MINIATURE,
    "miniature.near_misses": _MINIATURE,
    "miniature.background_correlation": _MINIATURE,
}
"""Settings that no asset's code version holds, and why."""

NEEDS = {
    "image": frozenset[str](),
    "text": frozenset[str](),
    "sum": frozenset[str](),
    "product": frozenset[str](),
    "union_text": frozenset({"captions"}),
    "intersection": frozenset({"compositions"}),
    "intersection_anchor": frozenset({"compositions", "anchor_share"}),
}
"""What the built-in methods need, said again here: asking the methods themselves would import NumPy."""

UNTRAINED = frozenset({*NEEDS, "captions_text", "captions_union", "captions_intersection"})
"""The built-in methods without trained weights, which need not be loaded to know that."""


def needs(method: str, need: str) -> bool:
    """Whether a method needs something; one that is not built in may.

    Args:
        method: The method's name.
        need: ``captions``, ``compositions`` or ``anchor_share``.

    Returns:
        True where it does, or may.
    """
    return need in NEEDS.get(method, frozenset({need}))


QWEN = When(
    lambda settings: QWEN_RERANKER in settings.reranking.rerankers,
    ("model:reranker", "models.reranker.instruction"),
)
"""What is read of ``[models.reranker]``, where settings name the re-ranker that uses it."""


def reranked_need(need: str) -> Callable[[Settings], bool]:
    """A condition for :func:`when`: whether a method whose candidates are re-ranked needs something.

    Args:
        need: As for :func:`needs`.

    Returns:
        The condition.
    """
    return lambda settings: any(needs(method, need) for method in settings.reranked_methods)


def searched_spaces(settings: Settings, methods: Iterable[str]) -> list[str]:
    """The embedding spaces that methods search.

    No method is loaded where settings describe no space, and none that is built in.

    Args:
        settings: The settings.
        methods: The methods, as settings call them.

    Returns:
        The spaces, once each; all that there are, where a method cannot be loaded.
    """
    found: dict[str, None] = {}
    for name in methods:
        found |= dict.fromkeys(_searched(settings, name))
    return list(found)


BENCHMARKS = "code:benchmarks"
"""An entry of ``reads``: the code of benchmarks that settings name by path."""
OWN_BENCHMARKS = When(
    lambda settings: any(":" in dataset.kind for dataset in settings.datasets.values()), (BENCHMARKS,)
)
"""What is read of benchmarks: their code, where a data set names one by path."""


def is_own_name(settings: Settings, strategy: str) -> bool:
    """Whether settings call a method that they list as ``package.module:NAME`` by the name that it gives
    itself.
    """
    listed = (*settings.coarse.strategies, *settings.coarse.caption_strategies)
    return ":" not in strategy and strategy not in listed and any(":" in name for name in listed)


class _MethodReads(NamedTuple):
    """What a method reads: embedding spaces, the trained system whose weights it ranks with, generated texts,
    and settings by option.
    """

    spaces: tuple[str, ...]
    trained: str | None
    texts: frozenset[str]
    name: str
    option_keys: Mapping[str, str]


_loaded: dict[tuple[str, ...], _MethodReads] = {}


def _method_reads(settings: Settings, name: str) -> _MethodReads:
    every = (DEFAULT_SPACE, *settings.spaces)
    among = settings.coarse.strategies if is_own_name(settings, name) else ()
    known = (str(settings.base_dir), name, *every, *among)
    if known not in _loaded:  # a method of one's own may take its time to be made
        try:
            from setr_lib.methods.method import get_method, needs_space
            from setr_lib.pipeline.texts import written_texts

            if is_own_name(settings, name):
                method = pipeline_context(settings).methods.get(name)
            else:
                method = get_method(name, settings)
            spaces = (method.space,) if needs_space(method) else ()
            texts = written_texts([method])
            _loaded[known] = _MethodReads(spaces, method.trained, texts, method.name, method.option_keys)
        except SetrError:  # told by the run that needs the method
            return _MethodReads(every, None, frozenset({"captions", "compositions"}), name, {})
    return _loaded[known]


def _searched(settings: Settings, name: str) -> tuple[str, ...]:
    if name in NEEDS or not settings.spaces:
        return (DEFAULT_SPACE,)
    if name in UNTRAINED:
        return ()
    return _method_reads(settings, name).spaces


def text_needed(kind: str) -> Callable[[Settings], bool]:
    """A condition for :func:`when`: whether the multimodal LLM is asked for a kind of text at all.

    Args:
        kind: ``captions`` or ``compositions``.

    Returns:
        The condition: that a configured method, or one whose candidates are re-ranked, needs it.
    """

    def holds(settings: Settings) -> bool:
        coarse = settings.coarse
        named = (*coarse.strategies, *coarse.caption_strategies, *settings.reranked_methods)
        return any(kind in _texts(settings, name) for name in named)

    return holds


def _texts(settings: Settings, strategy: str) -> frozenset[str]:
    if strategy in UNTRAINED:
        return NEEDS.get(strategy, frozenset())
    return _method_reads(settings, strategy).texts


def needed_systems(settings: Settings) -> list[str]:
    """The trained systems that configured methods need.

    Args:
        settings: The settings.

    Returns:
        Each system once, as the methods name it.
    """
    named = (*settings.coarse.strategies, *settings.coarse.caption_strategies)
    found = (_method_reads(settings, name).trained for name in named if name not in UNTRAINED)
    return list(dict.fromkeys(system for system in found if system is not None))


class _Options(NamedTuple):
    """What settings say to a method: its section, and the keys of other sections that it names."""

    section: Mapping[str, Any]
    keys: Mapping[str, str]


def _options(settings: Settings, strategies: Iterable[str]) -> dict[str, _Options]:
    """By their own names, what settings say to methods; those to which they say nothing are left out. The
    keys that methods of the package name are declared by the assets themselves.
    """
    found: dict[str, _Options] = {}
    for strategy in strategies:
        name, keys = strategy, dict[str, str]()
        if strategy not in UNTRAINED:
            facts = _method_reads(settings, strategy)
            name, keys = facts.name, dict(facts.option_keys)
        if (section := settings.methods.get(name)) or keys:
            found[name] = _Options(section or {}, keys)
    return found


def _ranked_options(settings: Settings) -> dict[str, _Options]:
    return _options(settings, (*settings.coarse.strategies, *settings.coarse.caption_strategies))


def _reranked_options(settings: Settings) -> dict[str, _Options]:
    return _options(settings, settings.reranked_methods)


def ranked_spaces(settings: Settings) -> list[str]:
    """The embedding spaces that galleries are embedded in and searched.

    Args:
        settings: The settings.

    Returns:
        Their names.
    """
    coarse = settings.coarse
    # Without a section [spaces.NAME] no method of captions can need the vectors of any.
    captioned = coarse.caption_strategies if settings.spaces else []
    return searched_spaces(settings, (*coarse.strategies, *captioned))


def reranked_spaces(settings: Settings) -> list[str]:
    """The embedding spaces of the methods whose candidates are re-ranked, and whose fusion is calibrated.

    Args:
        settings: The settings.

    Returns:
        Their names.
    """
    return searched_spaces(settings, settings.reranked_methods)


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
    if kind in ("spaces", "methods"):
        return (kind,)
    if read == BENCHMARKS:
        return ()
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
        if kind == "spaces":
            spaces = (ranked_spaces if read == RANKED else reranked_spaces)(self.settings)
            return {space: self._space(space) for space in spaces if space in self.settings.spaces}
        if read == BENCHMARKS:
            named = {key: dataset.kind for key, dataset in self.settings.datasets.items()}
            return {key: self._with_code(kind) for key, kind in named.items() if ":" in kind}
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

    def _space(self, name: str) -> Any:
        """What ``[spaces.NAME]`` says; of a model of the package's kinds also the files of a local folder."""
        described = self._values["spaces"][name]
        kind = described["kind"]
        if kind not in (OPEN_CLIP, SENTENCE_TRANSFORMERS):
            return self._with_code(described)
        options = {key: value for key, value in described["options"].items() if key != "batch_size"}
        key, of_model = ("name", self._open_clip) if kind == OPEN_CLIP else ("model", self._sentence_model)
        model = self.settings.space_options(name).get(key)
        return [kind, options | ({key: of_model(model)} if isinstance(model, str) else {})]

    def _sentence_model(self, name: str) -> Any:
        """A local model of sentence-transformers by the files of its folder and of its modules' folders."""
        folder = Path(name)
        if not folder.is_dir():
            return name
        parts = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
        return [self._local(part) for part in parts]

    def _said(self, options: _Options) -> dict[str, Any]:
        return {option: self._setting(key) for option, key in options.keys.items()} | dict(options.section)

    def _setting(self, key: str) -> Any:
        value: Any = self._values
        for part in key.split("."):
            value = value[part]
        return self._with_code(value)

    def _with_code(self, value: Any) -> Any:
        """``value``, each ``package.module:NAME`` in it with a digest of the module's file."""
        if isinstance(value, str) and _OBJECT.fullmatch(value):
            return [value, _marked(lambda: self._code(value.partition(":")[0]))]
        if isinstance(value, list):
            return [self._with_code(item) for item in value]
        if isinstance(value, dict):
            return {name: self._with_code(item) for name, item in value.items()}
        return value

    def _code(self, module: str) -> str:
        """Digest of a module's source file, found as ``load_object`` finds it; nothing is imported."""
        path: Sequence[str] | None = [*sys.path, str(self.settings.base_dir.resolve())]
        file = None
        for part in module.split("."):
            spec = PathFinder.find_spec(part, path)
            if spec is None:
                return "not found"
            file, path = spec.origin, list(spec.submodule_search_locations or ())
        return "no file" if file is None else fingerprint_file(Path(file))

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
