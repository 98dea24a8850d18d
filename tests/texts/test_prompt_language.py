"""Prompt files: what the template language refuses, with file and line, and that what it allows stays
small.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from setr_lib.texts.answers import Answer, Text
from setr_lib.texts.kind import TextKind
from setr_lib.texts.prompts import PromptError, PromptTemplate, load_prompts

REFUSED = [
    ("{% for i in range(10**9) %}{% for j in range(10**9) %}{% endfor %}{% endfor %}", "NAME in LIST"),
    ("{% for i in captions %}{% for j in i %}{{ j }}{% endfor %}{% endfor %}", "only a list"),
    ("{% for letter in modification %}{{ letter }}{% endfor %}", "only a list can be looped over"),
    ("{% for i in captions recursive %}{{ loop(captions) }}{% endfor %}", "recursive"),
    ("{{ 'x' * 10**10 }}", "arithmetic"),
    ("{{ 9**9**9**9 }}", "arithmetic"),
    ("{{ captions + captions }}", "arithmetic"),
    ("{{ -modification }}", "arithmetic"),
    ("{{ modification ~ modification }}", "~"),
    ("{{ 'a'" + "|replace('a', 'aaaaaaaaaa')" * 30 + " }}", "longer than 20,000"),
    ("{{ captions" + "|join('aaaaaaaaaa')" * 30 + " }}", "takes a list"),
    ("{{ modification.__class__.__mro__ }}", "attribute"),
    ("{{ captions.append('x') }}", "call"),
    ("{{ captions[0] }}", "index"),
    ("{{ modification | pprint }}", "filter 'pprint'"),
    ("{{ modification | center(10000000000) }}", "filter 'center'"),
    ("{{ modification is callable }}", "test 'callable'"),
    ("{% set x = modification %}", "set is not allowed"),
    ("{% macro m() %}{% endmacro %}", "macro is not allowed"),
    ("{% include 'other.jinja' %}", "include is not allowed"),
    ("{% import 'other.jinja' as other %}", "import is not allowed"),
    ("{% extends 'other.jinja' %}", "extends is not allowed"),
    ("{% with %}{% endwith %}", "with is not allowed"),
    ("{{ self }}", "self"),
    ("{{ loop }}", "loop alone"),
    ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deeply"),
    ("{{ " + "1 and " * 5000 + "1 }}", "nested too deeply"),
    ("{% if 1 %}" * 200 + "{% endif %}" * 200, "nested too deeply"),
    ("{{ " + "1" * 5000 + " }}", "number"),
    ("{{ modification", "unexpected end"),
    ("{% if modification %}", "endif"),
    ("{# never closed", "comment"),
    ("<system>never closed", "without its other half"),
    ("{{ modificaton }}", "no variable 'modificaton' here; variables: captions, modification"),
    ("{% if 1 == 2 %}{{ hidden_in_a_branch }}{% endif %}", "hidden_in_a_branch"),
    ("{{ captions | upper }}", "takes a text, not a list"),
    ("{{ modification | length | upper }}", "takes a text, not a number"),
    ("{% if captions > 3 %}{% endif %}", "different kinds"),
    ("{{ modification | trim('x') }}", "the filter 'trim' takes nothing in brackets"),
    ("{{ captions | join(d=',', attribute='x') }}", "the filter 'join' takes ([d])"),
    ("{{ modification | replace('a') }}", "the filter 'replace' takes (old, new)"),
    ("{{ modification | replace('a', 'b', old='c') }}", "the filter 'replace' takes (old, new)"),
    ("{% autoescape true %}{% endautoescape %}", "autoescape is not allowed"),
    ("\ue000", "the character U+E000 is not allowed"),
    ("x" * 20_001, "longer than 20,000"),
]


@pytest.mark.parametrize(("source", "reason"), REFUSED, ids=[source[:40] for source, _ in REFUSED])
def test_what_a_prompt_may_not_have_is_refused_when_it_is_read(
    tmp_path: Path, source: str, reason: str
) -> None:
    text = f"<system>A comment:\n{{# two\nlines #}}</system>\n<reference>\n{source}\n"
    (tmp_path / "compose.jinja").write_text(text, encoding="utf-8")
    with pytest.raises(PromptError) as told:
        load_prompts("", tmp_path).get("compose")
    assert str(tmp_path / "compose.jinja") in str(told.value) and reason in str(told.value)
    without_line = ("longer than", "number", "nested too deeply", "endif", "unexpected end")
    if not any(words in reason for words in without_line):
        assert "compose.jinja, line 5: " in str(told.value)


@pytest.mark.parametrize(
    ("source", "line"), [("a\n\n{{ oops }}", 4), ("<system>a\n{{ oops }}</system>", 3), ("{{ ", 2)]
)
def test_the_line_is_the_file_s_own(tmp_path: Path, source: str, line: int) -> None:
    (tmp_path / "compose.jinja").write_text(f"{{# #}}<reference>\n{source}", encoding="utf-8")
    with pytest.raises(PromptError, match=rf"compose\.jinja, line {line}: "):
        load_prompts("", tmp_path).get("compose")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "{% for c in captions %}{{ loop.index }}/{{ loop.length }} {{ c | upper }};{% endfor %}",
            "1/2 A;2/2 B;",
        ),
        ("{% for c in captions %}{{ c }}{% if not loop.last %}, {% endif %}{% endfor %}", "a, b"),
        ("{{ captions | join(' and ') }}, {{ captions | length }}", "a and b, 2"),
        ("{{ captions | first }}{{ captions | last | trim }}", "ab"),
        ("{{ modification | replace('red', 'blue') | title }}", "Blue Dress"),
        (
            "{% if captions | length == 1 %}1{% elif 'red' in modification and not 0 %}2{% endif %}",
            "2",
        ),
        ("{% if note is defined %}{{ note }}{% else %}none{% endif %}", "none"),
        ("{{ note | default('nothing') }}{% if note is defined %}!{% endif %}", "nothing"),
        ("{% raw %}{{ 7 * 7 }}{% endraw %}", "{{ 7 * 7 }}"),
    ],
)
def test_what_a_prompt_may_have_is_filled_in(source: str, expected: str) -> None:
    template = PromptTemplate(Path("compose.jinja"), f"<reference>{source}")
    template.check("compose")
    assert template.render(modification="red dress", captions=["a", "b"]).parts[1:] == (expected,)


def test_values_cannot_make_a_prompt_long_or_slow() -> None:
    short = PromptTemplate(Path("p.jinja"), "<reference>{{ modification }}")
    assert len(str(short.render(modification="x" * 19_999).parts[1])) == 19_999
    with pytest.raises(PromptError, match=r"p\.jinja.*20,000 characters \(modification: 20,001, 'xxx"):
        short.render(modification="x" * 20_001)
    loops = "{% for a in captions %}{% for b in captions %}{% endfor %}{% endfor %}"
    with pytest.raises(PromptError, match=r"p\.jinja.*10,000 steps"):
        PromptTemplate(Path("p.jinja"), f"<reference>{loops}").render(captions=["x"] * 3_000)


def test_a_template_of_one_s_own_code_is_held_against_the_language_when_it_is_filled_in() -> None:
    with pytest.raises(PromptError, match=r"mine\.py, line 1: arithmetic"):
        PromptTemplate(Path("mine.py"), "<reference>{{ 'x' * 10**10 }}").render(modification="a")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"<image>\ncaf\xe9", r"describe\.jinja, line 2: not UTF-8 \(byte 0xe9\)"),
        ("<image>\ndescribe".encode("utf-16-le"), r"describe\.jinja, line 1: a null character"),
        ("<image> describe".encode("utf-16"), r"describe\.jinja, line 1: not UTF-8"),
        (b"<image>" + b" " * 1_000_000, r"describe\.jinja: 1,000,007 bytes"),
    ],
)
def test_a_file_that_is_no_text_is_told_with_its_line(tmp_path: Path, data: bytes, told: str) -> None:
    (tmp_path / "describe.jinja").write_bytes(data)
    with pytest.raises(PromptError, match=told):
        load_prompts("", tmp_path).get("describe")


def test_a_byte_order_mark_and_line_ends_of_windows_are_not_part_of_the_prompt(tmp_path: Path) -> None:
    (tmp_path / "describe.jinja").write_bytes(b"\xef\xbb\xbf<image>a\r\nb")
    assert load_prompts("", tmp_path).get("describe").render().parts[1:] == ("a\nb",)


def test_the_first_prompt_that_is_asked_for_tells_of_the_judge_s_fault(tmp_path: Path) -> None:
    (tmp_path / "describe.jinja").write_text("<image>describe")
    (tmp_path / "judge.jinja").write_text("<reference>\n{{ modificaton }}<candidate>?")
    with pytest.raises(PromptError, match=r"judge\.jinja, line 2: .*modificaton"):
        load_prompts("", tmp_path).get("describe")


class Line(Answer):
    """A line."""

    line: Text


def test_a_method_s_prompt_is_held_against_the_variables_that_it_will_be_given(tmp_path: Path) -> None:
    kind = TextKind(
        "lines",
        task="line",
        per="query",
        answer=Line,
        variables=lambda row, texts: {"caption": texts["captions"]["caption"], "said": row["modification"]},
        after=("captions",),
    )
    path = tmp_path / "line.jinja"
    path.write_text("<reference>{{ caption }}, {{ said }}")
    assert kind.template(load_prompts("", tmp_path)) is not None
    path.write_text("<reference>{% for word in caption %}{{ word }}{% endfor %}")
    assert kind.template(load_prompts("", tmp_path)) is not None, "another text's field may be a list"
    path.write_text("<reference>{% for word in said %}{{ word }}{% endfor %}")
    with pytest.raises(PromptError, match=r"'said' is a text"):
        kind.template(load_prompts("", tmp_path))
    path.write_text("<reference>\n\n{{ captoin }}, {{ said }}")
    with pytest.raises(PromptError, match=r"line\.jinja, line 3: .*'captoin' here; variables: caption, said"):
        kind.template(load_prompts("", tmp_path))
