"""The template language of prompt files: a part of Jinja whose result is small and soon there.

Allowed are variables, ``if`` / ``elif`` / ``else`` with comparisons and ``and``, ``or``, ``not``, ``for``
over a list variable with ``loop.index`` and the like, and a few filters (:data:`FILTERS`). Everything else is
refused in the parsed template, before anything of it runs: calls, attributes, indices, arithmetic, ``set``,
macros, imports. What is allowed can still be made large by its values, so lists are stepped through a limited
number of times and a rendered text has a limited length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import signature
from types import TracebackType
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, Undefined, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

LONGEST_SOURCE = 200_000
"""Characters that a prompt file may have, comments included."""
LONGEST_RESULT = 20_000
"""Characters that a rendered prompt may have."""
TOO_LONG = f"the filled-in prompt is longer than {LONGEST_RESULT:,} characters"
MOST_STEPS = 10_000
"""Steps that the loops of one rendering may take together."""
DEEPEST_BLOCK, DEEPEST_LOOP, DEEPEST_EXPRESSION = 6, 2, 40

Values = Mapping[str, str | list[str]]
"""Variable -> its text, or list of texts."""

LOOP_ATTRIBUTES = ("index", "index0", "revindex", "revindex0", "first", "last", "length")
_TESTS = ("defined", "undefined")
_WORDS: dict[type[nodes.Node], str] = {
    nodes.Call: "a call",
    nodes.Getitem: "an index (use the filters first and last, or a for loop)",
    nodes.Slice: "a slice",
    nodes.CondExpr: "an if inside an expression (use {% if %})",
    nodes.Concat: "~ (write {{ a }}{{ b }})",
    nodes.BinExpr: "arithmetic",
    nodes.UnaryExpr: "arithmetic",
    nodes.Assign: "set",
    nodes.AssignBlock: "set",
    nodes.Macro: "macro",
    nodes.CallBlock: "call",
    nodes.FilterBlock: "a filter block",
    nodes.With: "with",
    nodes.Block: "block",
    nodes.Extends: "extends",
    nodes.Include: "include",
    nodes.Import: "import",
    nodes.FromImport: "import",
    nodes.Scope: "autoescape",
    nodes.Dict: "a mapping",
    nodes.Tuple: "a tuple",
}
_PLAIN = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Const,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.List,
    nodes.Keyword,
)


class UnknownKind(str):
    """An example of a variable's value of which nobody can tell whether it is a text or a list."""


class TemplateFault(Exception):
    """Why a template is refused or cannot be filled in, and the line, from 1; 0 where no line is at fault."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.reason, self.line = reason, line


def compiled(source: str) -> Template:
    """Compile a template that :func:`variables_of` has accepted.

    Args:
        source: The template.

    Returns:
        The template, to be filled in by :func:`fill`.

    Raises:
        TemplateFault: It is malformed.
    """
    return _read(lambda: _ENVIRONMENT.from_string(source))


def variables_of(source: str) -> frozenset[str]:
    """Check that a template is of the language.

    Args:
        source: The template.

    Returns:
        The variables that it must be given; those that it asks ``is defined`` of are not among them.

    Raises:
        TemplateFault: It is malformed, or has something that the language has not.
    """
    if len(source) > LONGEST_SOURCE:
        raise TemplateFault(f"{len(source):,} characters; a prompt file has at most {LONGEST_SOURCE:,}")
    tree = _read(lambda: _ENVIRONMENT.parse(source))
    _check(tree, 0, 0, 0)
    asked = {test.node.name for test in tree.find_all(nodes.Test) if isinstance(test.node, nodes.Name)}
    return frozenset(_read(lambda: meta.find_undeclared_variables(tree)) - asked)


def check_variables(source: str, values: Values) -> None:
    """Check the variables of a template against those that it will be given, by name and by kind.

    Args:
        source: A template that :func:`variables_of` has accepted.
        values: Variable -> an example of its value.

    Raises:
        TemplateFault: It uses a variable that is not among them, or loops over a text.
    """
    tree = _read(lambda: _ENVIRONMENT.parse(source))
    unknown = variables_of(source) - set(values)
    for name in tree.find_all(nodes.Name):
        if name.name in unknown:
            may = ", ".join(sorted(values)) or "none"
            raise TemplateFault(f"there is no variable {name.name!r} here; variables: {may}", name.lineno)
    for loop in tree.find_all(nodes.For):
        value = values.get(loop.iter.name) if isinstance(loop.iter, nodes.Name) else None
        if (
            isinstance(loop.iter, nodes.Name)
            and isinstance(value, str)
            and not isinstance(value, UnknownKind)
        ):
            raise TemplateFault(f"{loop.iter.name!r} is a text: only a list can be looped over", loop.lineno)


def fill(template: Template, values: Values) -> str:
    """A template with its variables filled in.

    Args:
        template: The compiled template.
        values: Its variables.

    Returns:
        The text.

    Raises:
        TemplateFault: A variable is missing or of another kind than the template takes it for, the loops are
            too long, or the text is.
    """
    budget = _Budget()
    given = {
        name: _Text(value) if isinstance(value, str) else _Counted(map(_Text, value), budget)
        for name, value in values.items()
    }
    pieces: list[str] = []
    length = 0
    try:
        for piece in template.generate(given):
            pieces.append(piece)
            length += len(piece)
            if length > LONGEST_RESULT:
                raise TemplateFault(TOO_LONG)
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
        reason = error.message if isinstance(error, TemplateError) else str(error)
        if "not supported between instances" in (reason or ""):  # Python names its classes
            reason = "two values are compared that are of different kinds: a text, a number or a list"
        raise TemplateFault(reason or "it cannot be filled in", _line_of(error.__traceback__)) from error
    return "".join(pieces)


def _read(parse: Callable[[], Any]) -> Any:
    """What Jinja makes of a template; its own complaints, and Python's about absurd ones, as a fault."""
    try:
        return parse()
    except TemplateSyntaxError as error:
        raise TemplateFault(error.message or "it is malformed", error.lineno) from error
    except TemplateError as error:
        raise TemplateFault(error.message or "it is malformed") from error
    except (RecursionError, MemoryError, SyntaxError) as error:
        raise TemplateFault("it is nested too deeply") from error
    except (ArithmeticError, ValueError) as error:
        raise TemplateFault("a number in it is too long") from error


def _check(node: nodes.Node, block: int, loop: int, depth: int) -> None:
    """Refuse what the language has not, in ``node`` and below it."""
    block += isinstance(node, nodes.If | nodes.For)
    loop += isinstance(node, nodes.For)
    depth = depth + 1 if isinstance(node, nodes.Expr) else 0
    if block > DEEPEST_BLOCK or loop > DEEPEST_LOOP or depth > DEEPEST_EXPRESSION:
        raise TemplateFault(
            f"it is nested too deeply: at most {DEEPEST_BLOCK} blocks and {DEEPEST_LOOP} loops inside one "
            f"another, and {DEEPEST_EXPRESSION} parts of an expression",
            node.lineno,
        )
    if isinstance(node, nodes.Getattr):
        _check_attribute(node)
        return
    if isinstance(node, nodes.Name) and node.name == "loop":
        raise TemplateFault(f"loop alone is no text: {_loop_words()}", node.lineno)
    if isinstance(node, nodes.Name) and node.name in ("self", "super", "caller"):
        raise TemplateFault(f"{node.name!r} is not allowed in a prompt: {_language()}", node.lineno)
    if isinstance(node, nodes.For):
        _check_loop(node)
    elif isinstance(node, nodes.Filter):
        _check_filter(node)
    elif isinstance(node, nodes.Test):
        if node.name not in _TESTS or not isinstance(node.node, nodes.Name):
            raise TemplateFault(
                f"the test {node.name!r} is not allowed in a prompt: only NAME is defined", node.lineno
            )
    elif not isinstance(node, (*_PLAIN, nodes.If, nodes.Name)):
        words = next((words for kind, words in _WORDS.items() if isinstance(node, kind)), None)
        raise TemplateFault(
            f"{words or type(node).__name__.lower()} is not allowed in a prompt: {_language()}",
            node.lineno or next((below.lineno for below in node.find_all(nodes.Node) if below.lineno), 0),
        )
    # Of an if and its elifs, these are one block, however many.
    beside = list(node.elif_) if isinstance(node, nodes.If) else []
    for child in node.iter_child_nodes():
        inside = block - 1 if any(child is other for other in beside) else block
        _check(child, inside, loop, depth)


def _check_attribute(node: nodes.Getattr) -> None:
    owner = node.node
    if not isinstance(owner, nodes.Name) or owner.name != "loop" or node.attr not in LOOP_ATTRIBUTES:
        raise TemplateFault(
            f"the attribute {node.attr!r} is not allowed in a prompt: {_loop_words()}", node.lineno
        )


def _check_loop(node: nodes.For) -> None:
    if node.recursive:
        raise TemplateFault("a recursive loop is not allowed in a prompt", node.lineno)
    if not isinstance(node.iter, nodes.Name) or not isinstance(node.target, nodes.Name):
        raise TemplateFault(
            "only {% for NAME in LIST %} is allowed in a prompt, LIST being a variable", node.lineno
        )


def _check_filter(node: nodes.Filter) -> None:
    if node.name not in FILTERS:
        raise TemplateFault(
            f"the filter {node.name!r} is not allowed in a prompt; there are {', '.join(sorted(FILTERS))}",
            node.lineno,
        )
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        raise TemplateFault("* and ** are not allowed in a prompt", node.lineno)
    taken = list(signature(FILTERS[node.name]).parameters.values())[1:]  # the first is what is filtered
    names = [each.name for each in taken[len(node.args) :]]
    given = [str(each.key) for each in node.kwargs]
    needed = [each.name for each in taken[len(node.args) :] if each.default is each.empty]
    if (
        len(node.args) > len(taken)
        or not set(given) <= set(names)
        or not set(needed) <= set(given)
        or len(set(given)) < len(given)
    ):
        words = ", ".join(each.name if each.default is each.empty else f"[{each.name}]" for each in taken)
        raise TemplateFault(
            f"the filter {node.name!r} takes {f'({words})' if words else 'nothing in brackets'}", node.lineno
        )


def _loop_words() -> str:
    return f"only loop.{', loop.'.join(LOOP_ATTRIBUTES)} are"


def _language() -> str:
    return (
        "only variables, if / elif / else with comparisons and and, or, not, for over a list, and the "
        f"filters {', '.join(sorted(FILTERS))}"
    )


def _line_of(trace: TracebackType | None) -> int:
    """The line of the template where it stopped; Jinja gives the frames of a template its own lines."""
    line = 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


class _Budget:
    """The steps that are left to the loops of one rendering."""

    def __init__(self) -> None:
        self.left = MOST_STEPS

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise TemplateFault(f"its loops take more than {MOST_STEPS:,} steps")


class _Text(str):
    """A text that cannot be looped over: its characters are no list."""

    def __iter__(self) -> Iterator[str]:
        raise TypeError("only a list can be looped over, and this is a text")


class _Counted(list[str]):
    """A list whose every step counts against a budget."""

    def __init__(self, texts: Iterable[str], budget: _Budget) -> None:
        super().__init__(texts)
        self._budget = budget

    def __iter__(self) -> Iterator[str]:
        for text in super().__iter__():
            self._budget.step()
            yield text


def _text(value: object, of: str) -> str:
    if isinstance(value, Undefined):
        return str(value)  # raises: the variable is named
    if not isinstance(value, str):
        raise TypeError(f"the filter {of!r} takes a text, not {_kind(value)}")
    return value


def _kind(value: object) -> str:
    if isinstance(value, list):
        return "a list"
    return "a number" if isinstance(value, int | float) else f"{value!r}"


def _changed(name: str, change: Callable[[str], str]) -> Callable[[object], str]:
    """A filter of one text."""
    return lambda value: change(_text(value, name))


def _replace(value: object, old: str, new: str) -> str:
    text = _text(value, "replace")
    old, new = _text(old, "replace"), _text(new, "replace")
    return _bounded(len(text) + text.count(old) * (len(new) - len(old)), lambda: text.replace(old, new))


def _join(value: object, d: str = "") -> str:
    if not isinstance(value, list):
        _text(value, "join")
        raise TypeError("the filter 'join' takes a list, not a text")
    texts, between = [str(text) for text in value], _text(d, "join")
    return _bounded(sum(map(len, texts)) + len(between) * len(texts), lambda: between.join(texts))


def _bounded(length: int, make: Callable[[], str]) -> str:
    if length > LONGEST_RESULT:
        raise TemplateFault(TOO_LONG)
    return make()


def _sequence(value: object, of: str) -> str | list[Any]:
    return value if isinstance(value, list) else _text(value, of)


def _end(name: str, position: int) -> Callable[[object], Any]:
    """The filters ``first`` and ``last``."""

    def run(value: object) -> Any:
        sequence = _sequence(value, name)
        if not sequence:
            raise ValueError(f"the filter {name!r} was given nothing: an empty list or text")
        return sequence[position]

    return run


def _default(value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    return default_value if isinstance(value, Undefined) or (boolean and not value) else value


FILTERS: dict[str, Callable[..., Any]] = {
    "capitalize": _changed("capitalize", str.capitalize),
    "default": _default,
    "first": _end("first", 0),
    "join": _join,
    "last": _end("last", -1),
    "length": lambda value: len(_sequence(value, "length")),
    "lower": _changed("lower", str.lower),
    "replace": _replace,
    "title": _changed("title", str.title),
    "trim": _changed("trim", str.strip),
    "upper": _changed("upper", str.upper),
}
"""The filters of the language, by name."""


def _environment() -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, trim_blocks=True)
    made.globals.clear()
    made.filters = dict(FILTERS)
    made.tests = {name: made.tests[name] for name in (*_TESTS, "in", "eq")}
    return made


_ENVIRONMENT = _environment()
