"""``setr completion SHELL``: the script that lets a shell complete ``setr``'s commands, options and names.

The script asks ``setr`` itself, so that it never has to be made again: :func:`candidates` walks the parser
that also reads the command line. Names of data sets, methods and re-rankers are those that the nearest
settings file names, read as plain TOML: nothing is loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from setr_lib.commands.arguments.parser import subparsers_of
from setr_lib.errors import SetrError
from setr_lib.paths import expanded
from setr_lib.settings import BASE_JUDGE, CoarseSettings, RerankingSettings, find_settings_file

_BASH = r"""# setr: completion for bash. In ~/.bashrc:  eval "$(setr completion bash)"
_setr() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("${line%%$'\t'*}")
    done < <("$1" completion --words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -o bashdefault -F _setr setr
"""
_ZSH = r"""#compdef setr
# setr: completion for zsh. In ~/.zshrc, after compinit:  eval "$(setr completion zsh)"
_setr() {
    local line
    local -a names shown
    for line in "${(@f)$("$words[1]" completion --words "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        [[ -n $line ]] || continue
        names+=("${line%%$'\t'*}")
        shown+=("${line/$'\t'/  -- }")
    done
    if (( $#names )); then
        compadd -l -d shown -a names
    else
        _files
    fi
}
if [ "$funcstack[1]" = "_setr" ]; then
    _setr "$@"
else
    compdef _setr setr
fi
"""
_FISH = r"""# setr: completion for fish. In ~/.config/fish/config.fish:  setr completion fish | source
function __setr_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found ($words[1] completion --words $words[2..-1] 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c setr -f -a '(__setr_complete)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
"""The script of each shell."""
NAMED = {
    "dataset": "sets",
    "sets": "sets",
    "method": "methods",
    "methods": "methods",
    "rerank": "methods",
    "reranker": "rerankers",
}
"""What the values of an argument are, by its name in the parser; see :func:`known_names`."""


def script(shell: str) -> str:
    """The completion script of a shell.

    Args:
        shell: A key of :data:`SCRIPTS`.

    Returns:
        The script.
    """
    return SCRIPTS[shell]


def candidates(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[tuple[str, str]]:
    """What the last word of a command line may become.

    Args:
        parser: The parser of the whole command line.
        words: The words after ``setr``, the one to complete last; it may be empty.

    Returns:
        Words that begin like it, each with what it means, or an empty text. None where a file is meant, or
        anything: the shell then completes files.
    """
    *before, last = words or [""]
    place = _Place(parser)
    for word in before:
        place.step(word)
    return [(word, text) for word, text in place.expected(last) if word.startswith(last)]


def known_names(what: str, config: Path | None = None) -> list[str]:
    """Names that a settings file gives or uses, read without looking at anything else.

    Args:
        what: ``sets`` (data sets and evaluation sets), ``methods`` or ``rerankers``.
        config: The file; by default the one that is found from the current folder.

    Returns:
        The names; those of the defaults where there is no file, or none that can be read.
    """
    try:
        file = config or find_settings_file()
        values: dict[str, Any] = {} if file is None else tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SetrError):
        values = {}
    named: dict[str, Callable[[], list[str]]] = {
        "sets": lambda: _sets(values.get("datasets", {})),
        "methods": lambda: values.get("coarse", {}).get(
            "strategies", CoarseSettings.model_fields["strategies"].default
        ),
        "rerankers": lambda: [
            *(
                name.replace(" ", "-")
                for name in values.get("reranking", {}).get(
                    "rerankers", RerankingSettings.model_fields["rerankers"].default or [BASE_JUDGE]
                )
            ),
            "none",
        ],
    }
    try:
        return [name for name in named[what]() if isinstance(name, str)]
    except (AttributeError, TypeError):  # a section that is no section
        return []


def _sets(datasets: dict[str, Any]) -> list[str]:
    names: list[str] = []
    for name, section in datasets.items():
        names += [name, *(f"{name}-{split}" for split in section.get("splits", ()))]
    return names


class _Place:
    """Where in a command line the next word stands."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser
        self.config: Path | None = None
        self._waiting: argparse.Action | None = None  # an option that wants its value
        self._taken = 0  # positional arguments so far
        self._only_positional = False

    def step(self, word: str) -> None:
        """Go on behind a whole word."""
        if self._waiting is not None:
            if self._waiting.dest == "config":
                with contextlib.suppress(ValueError):
                    self.config = Path(expanded(word))
            self._waiting = None
        elif word == "--":
            self._only_positional = True
        elif word.startswith("-") and not self._only_positional:
            action = self.parser._option_string_actions.get(word)
            if action is not None and action.nargs is None:
                self._waiting = action
        elif word in (below := subparsers_of(self.parser)):
            self.parser, self._taken = below[word], 0
        else:
            self._taken += 1

    def expected(self, last: str) -> list[tuple[str, str]]:
        """What may come next, with what it means."""
        if self._waiting is not None:
            return self._values(self._waiting)
        if last.startswith("-") and not self._only_positional:
            return [
                (option, action.help or "")
                for action in self.parser._actions
                for option in action.option_strings
                if action.help != argparse.SUPPRESS
            ]
        positional = [action for action in self.parser._actions if not action.option_strings]
        if not positional:
            return []
        return self._values(positional[min(self._taken, len(positional) - 1)])

    def _values(self, action: argparse.Action) -> list[tuple[str, str]]:
        if isinstance(action, argparse._SubParsersAction):
            return [(choice.dest, choice.help or "") for choice in action._choices_actions]
        if action.choices is not None:
            return [(str(choice), "") for choice in action.choices]
        what = NAMED.get(action.dest)
        return [] if what is None else [(name, "") for name in known_names(what, self.config)]
