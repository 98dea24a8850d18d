"""Prompt files: where they are, what they may contain, and their rendering to one user turn with picture
slots.

A prompt set is a folder of Jinja files, one per task (``describe``, ``compose``, ``judge``, ``yes_no``), plus
overrides per kind of data set (``compose.fashioniq.jinja``) for every task but ``judge``: a re-ranker has one
prompt on all data sets, part of what it is. ``<image>``, ``<reference>`` and ``<candidate>`` mark where
pictures go, ``<system>...</system>`` an optional system text. Variables: ``modification`` and ``captions``
(compose, judge), ``question`` (yes_no). ``captions`` are a data set's raw texts where a query is composed; a
judge's are always ``[modification]``. White space around a picture is not part of the text. What else a file
may say is in ``prompt_language``; a file is held against it when it is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from jinja2 import Template

from setr_lib.errors import SetrError
from setr_lib.hashing import digest_strings
from setr_lib.models.multimodal import CANDIDATE, IMAGE, REFERENCE, ImageSlot, RenderedPrompt
from setr_lib.texts.folders import BUILT_IN, prompt_folder
from setr_lib.texts.prompt_language import (
    LONGEST_RESULT,
    LONGEST_SOURCE,
    TOO_LONG,
    TemplateFault,
    UnknownKind,
    Values,
    check_variables,
    compiled,
    fill,
    variables_of,
)

TASKS = ("describe", "compose", "judge", "yes_no")

# In a source, markers become characters that no value can contain: a modification text that says
# "<candidate>" stays text.
_MARKS = {"\ue000": IMAGE, "\ue001": REFERENCE, "\ue002": CANDIDATE}
_RESERVED = re.compile("[\ue000-\ue002]")
_SYSTEM = re.compile(r"<system>(.*?)</system>", re.DOTALL)
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_OPEN_SYSTEM = re.compile(r"</?system>")
_SLOTS = {
    "describe": {IMAGE},
    "compose": {REFERENCE, IMAGE},
    "judge": {REFERENCE, CANDIDATE},
    "yes_no": {IMAGE},
}

_QUERY: Values = {"modification": "make it red", "captions": ["is red", "has long sleeves"]}
VARIABLES: dict[str, Values] = {
    "describe": {},
    "compose": _QUERY,
    "judge": _QUERY,
    "yes_no": {"question": "is this a dress ?"},
}
"""The variables of the tasks that every prompt set has, with an example of each value."""


class PromptError(SetrError):
    """A prompt file is missing or malformed; the message names the file and what to write."""


class PromptTooLongError(PromptError):
    """A prompt is too long once a query's text is filled in: other queries may be fine."""


@dataclass(frozen=True)
class PromptTemplate:
    """One prompt file. ``hash`` identifies its text in every cache key and every table."""

    path: Path
    source: str

    @classmethod
    def read(cls, path: Path) -> PromptTemplate:
        """Read a prompt file.

        Args:
            path: The file.

        Returns:
            The prompt; whether it is well-formed is not checked.

        Raises:
            PromptError: The file cannot be read, or is no text in UTF-8; the message names the line.
        """
        try:
            if path.stat().st_size > 4 * LONGEST_SOURCE:  # bytes: a character has four at most
                raise PromptError(f"{path}: {path.stat().st_size:,} bytes are too many for a prompt file")
            data = path.read_bytes()
        except OSError as error:
            raise PromptError(f"{path}: the prompt file cannot be read ({error.strerror})") from error
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise PromptError(
                f"{path}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}): save the file as UTF-8"
            ) from error
        if "\0" in text:
            line = text[: text.index("\0")].count("\n") + 1
            raise PromptError(f"{path}, line {line}: a null character: save the file as UTF-8, not UTF-16")
        if (mark := _RESERVED.search(text)) is not None:
            line = text[: mark.start()].count("\n") + 1
            raise PromptError(f"{path}, line {line}: the character U+{ord(mark[0]):04X} is not allowed")
        return cls(path, text.replace("\r\n", "\n").replace("\r", "\n"))

    @property
    def hash(self) -> str:
        """Digest of the file's text."""
        return digest_strings([self.source])

    @cached_property
    def variables(self) -> frozenset[str]:
        """The names of the variables that the file uses.

        Raises:
            PromptError: The file is malformed, or has what a prompt may not have.
        """
        try:
            return frozenset().union(*map(variables_of, self._lined))
        except TemplateFault as fault:
            raise self._error(fault) from fault

    def render(self, **values: str | list[str]) -> RenderedPrompt:
        """The prompt with its variables filled in.

        Args:
            values: Variable -> its text, or list of texts.

        Returns:
            Texts and picture slots of the user turn, and the system text.

        Raises:
            PromptError: The file is malformed, uses a variable that is not among them, or the filled-in
                prompt has more than 20,000 characters (a ``PromptTooLongError``).
        """
        clean = {name: _clean(value) for name, value in values.items()}
        system, user = self._compiled
        try:
            filled, told = fill(user, clean), fill(system, clean).strip()
        except TemplateFault as fault:
            raise self._error(self._located(fault, clean), clean) from fault
        if len(filled) + len(told) > LONGEST_RESULT:
            raise self._error(TemplateFault(TOO_LONG), clean)
        return RenderedPrompt(_split(filled), told)

    def _error(self, fault: TemplateFault, values: Values | None = None) -> PromptError:
        line, whose = f", line {fault.line}" if fault.line else "", ""
        if fault.reason == TOO_LONG and values:
            texts = {name: "".join(value) for name, value in values.items()}  # of a text: itself
            longest = max(texts, key=lambda name: len(texts[name]))
            whose = f" ({longest}: {len(texts[longest]):,}, {texts[longest][:40]!r}...)"
        kind = PromptTooLongError if whose else PromptError
        return kind(f"{self.path}{line}: {fault.reason}{whose}")

    def _located(self, fault: TemplateFault, values: Values) -> TemplateFault:
        """The same fault with its line in the file: what is rendered has no comments and no system text, so
        its lines are others.
        """
        try:
            for source in self._lined:
                fill(compiled(source), values)
        except TemplateFault as found:
            return found
        return fault

    @cached_property
    def _lined(self) -> tuple[str, str]:
        """The system text and the user turn as templates, everything else as empty lines: a fault's line is
        the file's.
        """
        source = _COMMENT.sub(_only_lines, self.source)
        system, end = "", 0
        for found in _SYSTEM.finditer(source):
            system += _only_lines(source[end : found.start(1)]) + found[1]
            end = found.end(1)
        user = _SYSTEM.sub(_only_lines, source)
        if left := _OPEN_SYSTEM.search(user):
            line = user[: left.start()].count("\n") + 1
            raise TemplateFault(f"{left[0]} without its other half: <system>...</system>", line)
        return system, user

    @cached_property
    def _compiled(self) -> tuple[Template, Template]:
        self.variables  # noqa: B018 - refuses what may not be compiled
        source = _COMMENT.sub("", self.source)
        system = " ".join(part.strip() for part in _SYSTEM.findall(source))
        user = _SYSTEM.sub("", source)
        for mark, name in _MARKS.items():
            user = user.replace(f"<{name}>", mark)
        try:
            for lined in self._lined:  # for the line of what only compiling finds
                compiled(lined)
            return compiled(system), compiled(user)
        except TemplateFault as fault:
            raise self._error(fault) from fault

    def check(self, task: str, *, shows_picture: bool = True, variables: Values | None = None) -> None:
        """Refuse a file that does not fit its task.

        Args:
            task: ``describe``, ``compose``, ``judge``, ``yes_no``, or a name that a method brings.
            shows_picture: Whether it must show a picture; else it must show none.
            variables: The variables that it will be filled with, with an example of each value; by default
                those of the task, where that is one of the four.

        Raises:
            PromptError: The file is malformed, shows other pictures than the task has, or cannot be filled in
                with the variables.
        """
        self._check_pictures(task, shows_picture)
        self._compiled  # noqa: B018 - refuses what a prompt may not have
        values = VARIABLES.get(task) if variables is None else variables
        if values is None:
            return
        try:
            for source in self._lined:
                check_variables(source, values)
        except TemplateFault as fault:
            raise self._error(fault) from fault
        if not any(isinstance(value, UnknownKind) for value in values.values()):
            self.render(**values)

    def _check_pictures(self, task: str, shows_picture: bool) -> None:
        """Refuse a file that shows other pictures than its task has."""
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

    def get(
        self,
        task: str,
        dataset: str | None = None,
        *,
        shows_picture: bool = True,
        variables: Values | None = None,
    ) -> PromptTemplate:
        """The prompt of a task: the override file of the kind of data set if there is one.

        The judge's prompt has no overrides: it is ``judge.jinja`` for every data set. When the first prompt
        is asked for, those of describing, composing and judging are checked, too: a run is not to stop hours
        later at a file that could have been read at its start.

        Args:
            task: ``describe``, ``compose``, ``judge``, ``yes_no``, or a name that a method brings.
            dataset: The kind of data set, e.g. ``fashioniq``.
            shows_picture: As in :meth:`PromptTemplate.check`.
            variables: As in :meth:`PromptTemplate.check`.

        Returns:
            The prompt, checked.

        Raises:
            PromptError: There is no such file, or it or one of the others is malformed.
        """
        names = [f"{task}.{dataset}.jinja"] if dataset and task != "judge" else []
        for name in [*names, f"{task}.jinja"]:
            if name not in self._loaded and (self.folder / name).is_file():
                is_first = not self._loaded
                self._load(name, task, shows_picture, variables)
                if is_first:
                    self._load_others()
            if name in self._loaded:
                return self._loaded[name]
        raise PromptError(f"{self.folder}: there is no {task}.jinja; a prompt set holds {', '.join(TASKS)}")

    def _load(self, name: str, task: str, shows_picture: bool, variables: Values | None) -> None:
        template = PromptTemplate.read(self.folder / name)
        template.check(task, shows_picture=shows_picture, variables=variables)
        self._loaded[name] = template

    def _load_others(self) -> None:
        """Read the prompts of the pipeline's own tasks that are there."""
        for task in ("describe", "compose", "judge"):
            overrides = self.folder.glob(f"{task}.*.jinja") if task != "judge" else ()
            for path in (self.folder / f"{task}.jinja", *sorted(overrides)):
                if path.name not in self._loaded and path.is_file():
                    self._load(path.name, task, True, None)

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

    def own(
        self, task: str, source: str, *, shows_picture: bool = True, variables: Values | None = None
    ) -> PromptTemplate:
        """A prompt that a kind of generated text brings itself, as text.

        Args:
            task: Its task, for messages.
            source: The text of the prompt.
            shows_picture: As in :meth:`PromptTemplate.check`.
            variables: As in :meth:`PromptTemplate.check`.

        Returns:
            The prompt, checked.

        Raises:
            PromptError: It is malformed.
        """
        template = PromptTemplate(Path(f"{task}.jinja"), source)
        template.check(task, shows_picture=shows_picture, variables=variables)
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


def _only_lines(text: str | re.Match[str]) -> str:
    return "\n" * (text if isinstance(text, str) else text[0]).count("\n")


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
