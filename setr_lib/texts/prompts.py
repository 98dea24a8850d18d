"""Prompt files: where they are, what they may contain, and their rendering to one user turn with picture
slots.

A prompt set is a folder of Jinja files, one per task (``describe``, ``compose``, ``judge``, ``yes_no``), plus
overrides per kind of data set (``compose.fashioniq.jinja``) for every task but ``judge``: a re-ranker has one
prompt on all data sets, part of what it is. ``<image>``, ``<reference>`` and ``<candidate>`` mark where
pictures go, ``<system>...</system>`` an optional system text. Variables: ``modification`` and ``captions``
(compose, judge), ``question`` (yes_no). ``captions`` are a data set's raw texts where a query is composed; a
judge's are always ``[modification]``. White space around a picture is not part of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from setr_lib.errors import SetrError
from setr_lib.hashing import digest_strings
from setr_lib.models.multimodal import CANDIDATE, IMAGE, REFERENCE, ImageSlot, RenderedPrompt
from setr_lib.texts.folders import BUILT_IN, prompt_folder

TASKS = ("describe", "compose", "judge", "yes_no")

# In a source, markers become characters that no value can contain: a modification text that says
# "<candidate>" stays text.
_MARKS = {"\ue000": IMAGE, "\ue001": REFERENCE, "\ue002": CANDIDATE}
_RESERVED = re.compile("[\ue000-\ue002]")
_SYSTEM = re.compile(r"<system>(.*?)</system>", re.DOTALL)
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, trim_blocks=True)
_SLOTS = {
    "describe": {IMAGE},
    "compose": {REFERENCE, IMAGE},
    "judge": {REFERENCE, CANDIDATE},
    "yes_no": {IMAGE},
}


class PromptError(SetrError):
    """A prompt file is missing or malformed; the message names the file and what to write."""


@dataclass(frozen=True)
class PromptTemplate:
    """One prompt file. ``hash`` identifies its text in every cache key and every table."""

    path: Path
    source: str

    @property
    def hash(self) -> str:
        """Digest of the file's text."""
        return digest_strings([self.source])

    @cached_property
    def variables(self) -> frozenset[str]:
        """The names of the variables that the file uses.

        Raises:
            PromptError: The file is malformed.
        """
        try:
            return frozenset(
                meta.find_undeclared_variables(_ENVIRONMENT.parse(_COMMENT.sub("", self.source)))
            )
        except TemplateError as error:
            raise PromptError(f"{self.path}: {error.message}") from error

    def render(self, **values: str | list[str]) -> RenderedPrompt:
        """The prompt with its variables filled in.

        Args:
            values: Variable -> its text, or list of texts.

        Returns:
            Texts and picture slots of the user turn, and the system text.

        Raises:
            PromptError: The file uses a variable that is not among them.
        """
        clean = {name: _clean(value) for name, value in values.items()}
        system, user = self._compiled
        try:
            return RenderedPrompt(_split(user.render(clean)), system.render(clean).strip())
        except TemplateError as error:
            raise PromptError(f"{self.path}: {error.message}; it may use {sorted(values)}") from error

    @cached_property
    def _compiled(self) -> tuple[Template, Template]:
        source = _COMMENT.sub("", self.source)
        system = " ".join(part.strip() for part in _SYSTEM.findall(source))
        user = _SYSTEM.sub("", source)
        for mark, name in _MARKS.items():
            user = user.replace(f"<{name}>", mark)
        try:
            return _ENVIRONMENT.from_string(system), _ENVIRONMENT.from_string(user)
        except TemplateError as error:
            raise PromptError(f"{self.path}: {error.message}") from error

    def check(self, task: str, *, shows_picture: bool = True) -> None:
        """Refuse a file that does not fit its task.

        Args:
            task: ``describe``, ``compose``, ``judge``, ``yes_no``, or a name that a method brings.
            shows_picture: Whether it must show a picture; else it must show none.

        Raises:
            PromptError: The file is malformed, or shows other pictures than the task has.
        """
        shown: list[str] = re.findall(r"<(image|reference|candidate)>", _COMMENT.sub("", self.source))
        if not shows_picture and shown:
            raise PromptError(f"{self.path}: a {task} prompt shows no picture, this one {shown}")
        slots = _SLOTS.get(task, {REFERENCE, IMAGE})
        wrong = [slot for slot in shown if slot not in slots]
        if shows_picture and (not shown or wrong):
            allowed = " and ".join(f"<{slot}>" for slot in sorted(slots))
            raise PromptError(
                f"{self.path}: a {task} prompt shows {allowed}, this one {shown or 'no picture'}"
            )
        if task == "judge":
            self._check_judge(shown)
        self._compiled  # noqa: B018 - compiling is the syntax check

    def _check_judge(self, shown: list[str]) -> None:
        if shown.count(CANDIDATE) != 1 or shown[-1] != CANDIDATE or REFERENCE not in shown:
            raise PromptError(
                f"{self.path}: a judge prompt shows <reference>, then once <candidate>; not {shown}"
            )
        if re.search(r"\{\{|\{%", _COMMENT.sub("", self.source).split(f"<{CANDIDATE}>")[1]):
            raise PromptError(
                f"{self.path}: no variable may follow <candidate>; what depends on the query comes before "
                "it, so that it is computed once per query"
            )


@dataclass(frozen=True)
class PromptSet:
    """The prompt files of one folder."""

    folder: Path
    _loaded: dict[str, PromptTemplate] = field(default_factory=dict, repr=False, compare=False)

    def get(self, task: str, dataset: str | None = None, *, shows_picture: bool = True) -> PromptTemplate:
        """The prompt of a task: the override file of the kind of data set if there is one.

        The judge's prompt has no overrides: it is ``judge.jinja`` for every data set.

        Args:
            task: ``describe``, ``compose``, ``judge``, ``yes_no``, or a name that a method brings.
            dataset: The kind of data set, e.g. ``fashioniq``.
            shows_picture: As in :meth:`PromptTemplate.check`.

        Returns:
            The prompt, checked.

        Raises:
            PromptError: There is no such file, or it is malformed.
        """
        names = [f"{task}.{dataset}.jinja"] if dataset and task != "judge" else []
        for name in [*names, f"{task}.jinja"]:
            if name in self._loaded:
                return self._loaded[name]
            path = self.folder / name
            if path.is_file():
                template = PromptTemplate(path, path.read_text(encoding="utf-8"))
                template.check(task, shows_picture=shows_picture)
                self._loaded[name] = template
                return template
        raise PromptError(f"{self.folder}: there is no {task}.jinja; a prompt set holds {', '.join(TASKS)}")

    def has(self, task: str, dataset: str | None = None) -> bool:
        """Whether the set has a prompt of ``task``; the tasks that every set must have are taken for granted.

        Args:
            task: As in :meth:`get`.
            dataset: The kind of data set.

        Returns:
            True for the tasks that every set must have, whether or not their file exists.
        """
        names = [f"{task}.{dataset}.jinja"] if dataset else []
        return task in TASKS or any((self.folder / name).is_file() for name in [*names, f"{task}.jinja"])

    def own(self, task: str, source: str, *, shows_picture: bool = True) -> PromptTemplate:
        """A prompt that a kind of generated text brings itself, as text.

        Args:
            task: Its task, for messages.
            source: The text of the prompt.
            shows_picture: As in :meth:`PromptTemplate.check`.

        Returns:
            The prompt, checked.

        Raises:
            PromptError: It is malformed.
        """
        template = PromptTemplate(Path(f"{task}.jinja"), source)
        template.check(task, shows_picture=shows_picture)
        return template

    def hash(self, task: str, dataset: str | None = None) -> str:
        """Digest of the prompt that :meth:`get` returns.

        Args:
            task: As in :meth:`get`.
            dataset: The kind of data set.

        Returns:
            The digest.

        Raises:
            PromptError: As :meth:`get`.
        """
        return self.get(task, dataset).hash

    def unused_files_warning(self) -> str | None:
        """One sentence naming the files ``judge.KIND.jinja`` of the folder, which nothing reads; None without
        any.
        """
        unused = sorted(str(path) for path in self.folder.glob("judge.*.jinja"))
        if not unused:
            return None
        verb = "is" if len(unused) == 1 else "are"
        return (
            f"{', '.join(unused)} {verb} not used: a re-ranker has one judge prompt on all data sets, "
            "judge.jinja; another judge prompt is another re-ranker, so put it into a prompt folder of "
            "its own as judge.jinja and name that folder in models.judge.prompts"
        )


def load_prompts(name: str, base_dir: Path | None = None) -> PromptSet:
    """A prompt set by its name; its files are read, and checked, when first asked for.

    Args:
        name: ``standard``, ``miniature``, or a folder.
        base_dir: The folder that a relative path starts from; by default the current one.

    Returns:
        The prompt set.

    Raises:
        PromptError: There is no such set.
    """
    folder = prompt_folder(name, base_dir or Path.cwd())
    if not folder.is_dir():
        known = ", ".join(sorted(path.name for path in BUILT_IN.iterdir() if path.is_dir()))
        raise PromptError(
            f"models.judge.prompts = {name!r}: neither a built-in set ({known}) nor a folder ({folder})"
        )
    return PromptSet(folder)


def _clean(value: str | list[str]) -> str | list[str]:
    return _RESERVED.sub("", value) if isinstance(value, str) else [_RESERVED.sub("", text) for text in value]


def _split(text: str) -> tuple[str | ImageSlot, ...]:
    parts: list[str | ImageSlot] = []
    for piece in re.split("([\ue000-\ue002])", text):
        if piece in _MARKS:
            parts.append(ImageSlot(_MARKS[piece]))
        elif piece.strip():
            parts.append(piece.strip())
    return tuple(parts)
