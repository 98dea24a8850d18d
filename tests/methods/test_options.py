"""The options that methods declare: what settings may say, and whose section counts under a wrapper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from setr_assets.code_versions import RANKED_OPTIONS, CodeVersions
from setr_lib.commands.setup_checks import configured
from setr_lib.methods.inputs import MethodError
from setr_lib.methods.method import Method, as_method, get_method, method_names
from setr_lib.methods.options import Option
from setr_lib.methods.soft import SoftFilter
from setr_lib.pipeline.comparison import choose
from setr_lib.pipeline.context import PipelineContext
from setr_lib.settings import Settings, load_settings


def settings_of(folder: Path, text: str, *methods: str) -> Settings:
    listed = ", ".join(f'"{name}"' for name in ("intersection", *methods))
    file = folder / "setr.toml"
    file.write_text(f"[coarse]\nstrategies = [{listed}]\n{text}", encoding="utf-8")
    return load_settings(file)


def refused(settings: Settings) -> str:
    """What a run and doctor say of settings; the same."""
    with pytest.raises(MethodError) as caught:
        PipelineContext(settings).methods.configured  # noqa: B018
    (check,) = (check for check in configured(settings, set()) if check.what == "methods")
    assert (check.status, check.detail) == ("broken", str(caught.value))
    return str(caught.value)


@pytest.mark.parametrize(
    ("method", "line", "words"),
    [
        ("soft", "lamda = 0.2", "there is no such option; did you mean lambda? It has: base, lambda"),
        ("role", "overal = 0.3", "did you mean overall? It has: desired, forbidden, overall, preserve"),
        (
            "pdv_t",
            "image_scale = 1.0",
            "there is no such option; did you mean text_scale?",
        ),
        ("image", "share = 0.5", "there is no such option; it has none"),
        ("cotmr", "reward = -5", "= -5: write a number, at least 0"),
        ("sdr_cir", "anchor = 5", "= 5: write a number from 0 to 1"),
        ("sdr_cir", 'debias = "much"', "= 'much': write a number, at least 0, without quotes"),
        ("sdr_cir", "debias = true", "= True: write a number, at least 0"),
        ("pdv_f", "image_scale = [1.0]", "= [1.0]: write a number"),
        ("soft", "base = 5", "= 5: write a text"),
        ("soft", "lambda = 1.5", "= 1.5: write a number from 0 to 1"),
        ("soft_intersection", "lambda = -0.1", "= -0.1: write a number from 0 to 1"),
        ("role", "desired = -0.1", "= -0.1: write a number, at least 0"),
    ],
)
def test_an_option_that_a_method_does_not_have_is_refused(
    tmp_path: Path, method: str, line: str, words: str
) -> None:
    key = line.partition(" ")[0]
    message = refused(settings_of(tmp_path, f"[methods.{method}]\n{line}\n", method))
    assert message.startswith(f"[methods.{method}] {key}") and words in message


@pytest.mark.parametrize("line", ["components = -1", "components = 0", "components = 2.5", "expansion = -1"])
def test_options_beside_files_are_checked(tmp_path: Path, line: str) -> None:
    files = 'subjects = "setr.toml"\nstyles = "setr.toml"\n'
    message = refused(settings_of(tmp_path, f"[methods.basic]\n{files}{line}\n", "basic"))
    assert f"[methods.basic] {line}: write a whole number, at least " in message
    assert "did you mean subjects? It has: alpha, components, expansion, harris, image_mean, " in refused(
        settings_of(tmp_path, f"[methods.basic]\n{files}subject = 1\n", "basic")
    )


@pytest.mark.parametrize("name", method_names())
def test_every_built_in_method_declares_its_options(name: str) -> None:
    assert get_method(name).options is not None


class Free(Method):
    """A method that declares nothing."""

    name = "free"

    def scores(self, inputs: Any) -> Any: ...


def test_a_method_that_declares_nothing_takes_anything(tmp_path: Path) -> None:
    (tmp_path / "mine_free.py").write_text(
        "class Free:\n    name = 'free'\n    def scores(self, inputs): ...\n", encoding="utf-8"
    )
    text = "[methods.free]\nanything = 'x'\n[methods.soft]\nbase = 'mine_free:Free'\nother = 1\n"
    methods = PipelineContext(settings_of(tmp_path, text, "mine_free:Free", "soft")).methods
    assert methods.options(methods.get("free")) == {"anything": "x"}
    assert methods.options(methods.get("soft")) == {"anything": "x", "base": "mine_free:Free", "other": 1}
    wrong = settings_of(tmp_path, text.replace("other = 1", "lambda = 2"), "mine_free:Free", "soft")
    assert refused(wrong) == "[methods.soft] lambda = 2: write a number from 0 to 1", "its own are checked"


def test_options_that_are_none_are_refused() -> None:
    free = Free()
    free.options = {"share": 0.5}  # type: ignore[assignment]
    with pytest.raises(MethodError, match=r"'free': options is not a tuple of Option"):
        as_method(free, "here")


OVER = """
[methods.soft]
base = "pdv_f"
lambda = 0.2
[methods.pdv_f]
image_scale = 1.7
text_scale = 1.1
"""


def test_what_settings_say_to_the_wrapped_method_counts_and_the_wrappers_section_wins(tmp_path: Path) -> None:
    methods = PipelineContext(settings_of(tmp_path, OVER, "soft")).methods
    expected = {"base": "pdv_f", "lambda": 0.2, "image_scale": 1.7, "text_scale": 1.1}
    assert methods.options(methods.get("soft")) == expected
    assert methods.recorded_options(methods.get("soft")) == {"options": expected}
    nearer = OVER.replace("lambda = 0.2", "lambda = 0.2\nimage_scale = 0.5")
    methods = PipelineContext(settings_of(tmp_path, nearer, "soft", "pdv_f")).methods
    assert methods.options(methods.get("soft")) == expected | {"image_scale": 0.5}
    assert methods.options(methods.get("pdv_f")) == {"image_scale": 1.7, "text_scale": 1.1}


def test_the_wrapped_methods_section_is_checked_by_its_own_options(tmp_path: Path) -> None:
    wrong = settings_of(tmp_path, OVER.replace("text_scale", "text_scales"), "soft")
    assert refused(wrong).startswith("[methods.pdv_f] text_scales: there is no such option; did you mean")
    far = settings_of(tmp_path, OVER.replace("lambda = 0.2", "text_share = 2"), "soft")
    assert refused(far) == "[methods.soft] text_share = 2: write a number from 0 to 1"


def test_an_option_of_one_name_is_the_wrappers(tmp_path: Path) -> None:
    text = "[methods.soft]\nbase = 'soft_intersection'\n[methods.soft_intersection]\nlambda = 0.2\n"
    methods = PipelineContext(settings_of(tmp_path, text, "soft", "soft_intersection")).methods
    assert methods.options(methods.get("soft")) == {"base": "soft_intersection"}
    assert methods.options(methods.get("soft_intersection")) == {"lambda": 0.2}


def test_code_versions_hold_what_the_wrapped_method_is_told(tmp_path: Path) -> None:
    def version(text: str) -> str:
        return CodeVersions(settings_of(tmp_path, text, "soft")).version("1", (RANKED_OPTIONS,))

    assert version(OVER) == version(OVER)
    assert version(OVER) != version(OVER.replace("1.7", "1.8"))


def test_a_comparison_keeps_the_section_of_a_wrapped_method(tmp_path: Path) -> None:
    text = OVER + f'[datasets.cirr]\nroot = "{tmp_path}"\n[models.judge]\nprompts = "standard"\n'
    chosen = choose(settings_of(tmp_path, text, "soft", "pdv_t"), ["soft", "intersection"])
    assert chosen.context.settings.methods.keys() == {"soft", "pdv_f"}
    soft = chosen.context.methods.get("soft")
    assert isinstance(soft, SoftFilter) and chosen.context.methods.options(soft)["image_scale"] == 1.7


def test_an_option_is_read_checked_or_by_default() -> None:
    share = Option("share", least=0, most=1, default=0.3)
    assert share.of({}) == 0.3 and share.of({}, 0.7) == 0.7 and share.of({"share": 1}, 0.7) == 1.0
    assert isinstance(share.of({"share": 1}), float)
    with pytest.raises(MethodError, match=r"share = nan: write a number from 0 to 1"):
        share.of({"share": float("nan")})
    assert Option("count", int, most=3).allowed == "a whole number, at most 3"
    assert Option("is_on", bool).allows(False) and not Option("is_on", bool).allows(0)
