"""The methods that settings name, judged as a whole when they are loaded: by doctor, and by every run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from setr_assets.code_versions import RANKED_OPTIONS, CodeVersions
from setr_lib.commands.setup_checks import configured
from setr_lib.methods.inputs import MethodError
from setr_lib.pipeline.context import PipelineContext
from setr_lib.records import CoarseRecord
from setr_lib.reranking.reranker import RerankerError
from setr_lib.settings import load_settings
from setr_lib.texts.folders import prompt_folder

OWN = """
import numpy as np


class Slerp:
    name = "slerp"

    def scores(self, inputs):
        return np.zeros((len(inputs.queries.frame), len(inputs.gallery.vectors)), np.float32)


class Clash(Slerp):
    name = "sum"


class Other(Slerp):
    name, needs = "other", frozenset({"image_captions"})


class Mean:
    name, id = "mean colour", "1"

    def score(self, queries):
        return [np.zeros(len(query.candidates)) for query in queries]


class Dialled(Slerp):
    name, option_keys = "dialled", {"depth": "coarse.top_k"}


class Under(Slerp):
    name = "under"

    def __init__(self, inner=None):
        self.inner = inner
        self.space = "clip" if inner is None else inner.space

    def with_options(self, options, find):
        return Under(find(options["base"])) if "base" in options else self


class Wishful(Slerp):
    name, option_keys = "wishful", {"depth": "coarse.depth"}
"""


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "methods_of_mine.py").write_text(OWN, encoding="utf-8")
    yield tmp_path / "setr.toml"
    sys.modules.pop("methods_of_mine", None)
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path.resolve())]


def context_of(config: Path, text: str) -> PipelineContext:
    config.write_text(text, encoding="utf-8")
    return PipelineContext(load_settings(config))


def refused(config: Path, text: str) -> str:
    """What a run and doctor say of settings; the same."""
    context = context_of(config, text)
    with pytest.raises(MethodError) as caught:
        context.methods.configured  # noqa: B018
    (check,) = (check for check in configured(context.settings, set()) if check.what == "methods")
    assert (check.status, check.detail) == ("broken", str(caught.value))
    return str(caught.value)


@pytest.mark.parametrize("key", ["strategies", "caption_strategies"])
def test_two_methods_of_one_name_are_refused_naming_both_spellings(config: Path, key: str) -> None:
    lists = {"strategies": ["sum", "intersection"], "caption_strategies": ["captions_intersection"]}
    lists[key] = [*lists[key], "methods_of_mine:Clash"]
    message = refused(config, "[coarse]\n" + "\n".join(f"{name} = {value}" for name, value in lists.items()))
    assert "'sum' and 'methods_of_mine:Clash' are both called 'sum'" in message


STRATEGIES = "[coarse]\nstrategies = ['intersection', 'intersection_anchor', 'methods_of_mine:{}']\n"


def test_options_are_the_methods_own_section_and_what_it_names_of_others(config: Path) -> None:
    text = STRATEGIES.format("Dialled") + "anchor_share = 0.2\n[methods.dialled]\nt = 0.5\n"
    methods = context_of(config, text).methods
    asked = {name: methods.options(methods.get(name)) for name in methods.configured}
    assert asked["dialled"] == {"depth": 50, "t": 0.5}
    assert (asked["intersection"], asked["intersection_anchor"]) == ({}, {"anchor_share": 0.2})


WRAPPED = """
[coarse]
strategies = ["intersection", "soft", "methods_of_mine:Under"]
anchor_share = 0.3

[methods.soft]
base = "{}"
lambda = 0.2
"""


def test_an_option_names_the_method_that_is_wrapped(config: Path) -> None:
    methods = context_of(config, WRAPPED.format("intersection_anchor")).methods
    soft = methods.get("soft")
    assert soft.needs == {"compositions"} and [kind.name for kind in soft.texts] == ["soft_constraints"]
    assert methods.options(soft) == {"base": "intersection_anchor", "lambda": 0.2, "anchor_share": 0.3}
    assert methods.texts_needed == {"compositions"}, "and no captions, which CIReVL would read"
    methods = context_of(config, WRAPPED.format("methods_of_mine:Slerp")).methods
    assert "over slerp" in methods.get("soft").source and methods.get("soft").needs == frozenset()


@pytest.mark.parametrize(
    ("base", "also", "words"),
    [
        ("slerp", "", "there is no retrieval method 'slerp'"),
        ("soft", "", "[methods.soft]: soft wraps soft: a method cannot wrap itself"),
        (
            "methods_of_mine:Under",
            '[methods.under]\nbase = "soft"\n',
            "[methods.under]: soft wraps under wraps soft",
        ),
        ("captions_text", "", "searches captions: name another base"),
    ],
)
def test_a_method_that_cannot_be_wrapped_is_refused(config: Path, base: str, also: str, words: str) -> None:
    assert words in refused(config, WRAPPED.format(base) + also)


def test_records_keep_all_options(config: Path) -> None:
    text = STRATEGIES.format("Dialled") + "[methods.dialled]\nt = 0.5\n"
    methods = context_of(config, text).methods
    kept = {
        name: CoarseRecord(method=name, **methods.recorded_options(method)).stated()
        for name, method in methods.configured.items()
    }
    assert kept["dialled"] == {"method": "dialled", "options": {"depth": 50, "t": 0.5}}
    assert kept["intersection"] == {"method": "intersection"}
    assert kept["intersection_anchor"] == {"method": "intersection_anchor", "anchor_share": 0.1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (STRATEGIES.format("Slerp") + "[methods.slurp]\nt = 1\n", "[methods.slurp]: no configured method"),
        (STRATEGIES.format("Slerp") + "[methods.slurp]\nt = 1\n", "known: intersection, "),
        (STRATEGIES.format("Slerp") + "[methods.slurp]\nt = 1\n", ", slerp"),
        (
            STRATEGIES.format("Slerp") + "[methods.intersection_anchor]\nanchor_share = 0.5\n",
            "[methods.intersection_anchor] anchor_share: set anchor_share in [coarse] instead",
        ),
        (STRATEGIES.format("Wishful"), "option_keys: there is no setting 'coarse.depth'"),
    ],
)
def test_options_that_cannot_be_given_are_refused(config: Path, text: str, words: str) -> None:
    assert words in refused(config, text)


CHOSEN = """
[coarse]
strategies = ["intersection", "methods_of_mine:Slerp"]
default = "slerp"

[reranking]
methods = ["intersection", "slerp"]
rerankers = ["base judge", "methods_of_mine:Mean"]
"""


def test_a_method_is_chosen_by_the_name_that_it_gives_itself(config: Path) -> None:
    context = context_of(config, CHOSEN)
    assert context.methods.get(context.settings.coarse.default).name == "slerp"
    assert [method.name for method in context.methods.calibrated] == ["intersection", "slerp"]
    checks = {check.what: check.status for check in configured(context.settings, set())}
    assert (checks["methods"], checks["re-rankers"]) == ("ok", "ok")


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        ('default = "slerp"', 'default = "slurp"', "[coarse] default: 'slurp' is not among"),
        ('default = "slerp"', 'default = "slurp"', "add it there, or name some of intersection, slerp"),
        ('"slerp"]', '"slurp"]', "[reranking] methods: 'slurp' is not among"),
        ('"slerp"]', '"slerp", "methods_of_mine:Slerp"]', "are the same method"),
        (
            'default = "slerp"',
            'default = "slerp"\ncaption_strategies = ["captions_text", "methods_of_mine:Other"]\n'
            'caption_default = "others"',
            "[coarse] caption_default: 'others' is not among",
        ),
    ],
)
def test_a_name_that_no_listed_method_gives_itself_is_refused(
    config: Path, was: str, now: str, words: str
) -> None:
    assert words in refused(config, CHOSEN.replace(was, now))


def test_the_name_of_a_method_that_is_asked_for_is_looked_for_among_configured_ones(config: Path) -> None:
    methods = context_of(config, CHOSEN).methods
    with pytest.raises(MethodError, match=r"no retrieval method 'slurp'; known: .*product, .*slerp, .*sum"):
        methods.get("slurp")


def test_re_rankers_of_one_list_know_the_names_that_its_own_give_themselves(config: Path) -> None:
    with pytest.raises(RerankerError, match=r"no re-ranker 'means'; known: .*base judge, mean colour"):
        context_of(config, CHOSEN.replace('"base judge"', '"means"')).rerankers.configured  # noqa: B018
    with pytest.raises(RerankerError, match=r"'mean colour' and .*Mean' are both called 'mean colour'"):
        context_of(config, CHOSEN.replace('"base judge"', '"mean colour"')).rerankers.configured  # noqa: B018
    rerankers = context_of(config, CHOSEN).rerankers
    assert rerankers.get("mean colour") is rerankers.configured[1]
    with pytest.raises(RerankerError, match=r"no re-ranker 'means'; known: .*mean colour.* its path"):
        rerankers.get("means")


FILES = """
[coarse]
strategies = ["sum", "basic"]
default = "sum"
[methods.basic]
subjects = "corpora/subjects.txt"
styles = "corpora/styles.txt"
components = 7
"""


@pytest.fixture
def corpora(config: Path) -> Path:
    folder = config.parent / "corpora"
    folder.mkdir()
    for name in ("subjects", "styles"):
        (folder / f"{name}.txt").write_text("one\ntwo\n", encoding="utf-8")
    return folder


def test_a_file_that_an_option_names_is_looked_for_beside_the_settings(config: Path, corpora: Path) -> None:
    methods = context_of(config, FILES).methods
    found = methods.options(methods.get("basic"))
    assert found == {
        "subjects": str(corpora / "subjects.txt"),
        "styles": str(corpora / "styles.txt"),
        "components": 7,
    }


def test_another_content_of_a_file_is_another_record_and_another_code_version(
    config: Path, corpora: Path
) -> None:
    def said() -> tuple[dict[str, Any], str]:
        context = context_of(config, FILES)
        recorded = context.methods.recorded_options(context.methods.get("basic"))["options"]
        return recorded, CodeVersions(context.settings).version("1", (RANKED_OPTIONS,))

    before, version = said()
    assert before["components"] == 7 and before["styles"].startswith("styles.txt@")
    assert said() == (before, version)
    (corpora / "styles.txt").write_text("one\ntwo\nthree\n", encoding="utf-8")
    after, now = said()
    assert now != version
    assert {name for name in before if before[name] != after[name]} == {"styles"}


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        ('styles = "corpora/styles.txt"', "", 'needs styles = "FILE" (generic styles'),
        ("corpora/styles", "corpora/stiles", "there is no such file (generic styles"),
        ('"corpora/styles.txt"', "3", "[methods.basic] styles = 3: there is no such file"),
    ],
)
def test_a_file_that_a_method_lacks_is_told_before_anything_is_computed(
    config: Path, corpora: Path, was: str, now: str, words: str
) -> None:
    assert words in refused(config, FILES.replace(was, now))


def test_doctor_reads_the_prompts_of_texts_that_methods_bring(config: Path) -> None:
    folder = config.parent / "prompts"
    shutil.copytree(prompt_folder("standard", config.parent), folder)
    text = f"[coarse]\nstrategies = ['intersection', 'cirevl']\n[models.judge]\nprompts = '{folder}'\n"
    settings = context_of(config, text).settings
    checks = {each.what: each for each in configured(settings, {"fashioniq"})}
    assert checks["prompts"].status == "ok"
    (folder / "cirevl.fashioniq.jinja").write_text("<reference>{{ caption }}", encoding="utf-8")
    checks = {each.what: each for each in configured(settings, {"fashioniq"})}
    assert checks["prompts"].status == "broken"
    assert "a cirevl prompt shows no picture" in checks["prompts"].detail
