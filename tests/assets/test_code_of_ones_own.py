"""Code versions hold the code that settings name by path: an edited method makes its rankings stale."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import setr_lib.methods as methods_package
from setr_assets.code_versions import OWN_BENCHMARKS, RANKED, CodeVersions, When
from setr_assets.definitions import blueprints
from setr_assets.own_code import OwnCode
from setr_lib.settings import Settings, load_settings

METHODS = """
[coarse]
strategies = ["sum", "intersection", "own_methods_of_test:First", "own_package_of_test.inner:Second"]
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "setr.toml").write_text(METHODS, encoding="utf-8")
    (tmp_path / "own_methods_of_test.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    (tmp_path / "own_package_of_test").mkdir()
    (tmp_path / "own_package_of_test" / "inner.py").write_text("Second = 1\n", encoding="utf-8")
    (tmp_path / "other.py").write_text("nothing = 1\n", encoding="utf-8")
    return load_settings(tmp_path / "setr.toml")


def versions(settings: Settings) -> tuple[str, str]:
    made = CodeVersions(settings)
    return made.version("1", ["coarse.strategies"]), made.version("1", ["coarse.top_k"])


@pytest.mark.parametrize("name", ["own_methods_of_test.py", "own_package_of_test/inner.py"])
def test_an_edited_module_changes_what_reads_it_and_only_that(settings: Settings, name: str) -> None:
    before, unconcerned = versions(settings)
    (settings.base_dir / "other.py").write_text("nothing = 2\n", encoding="utf-8")
    assert versions(settings) == (before, unconcerned)
    (settings.base_dir / name).write_text("changed = True\n", encoding="utf-8")
    after, still = versions(settings)
    assert after != before and still == unconcerned


def test_a_module_that_is_not_there_is_left_to_the_run_that_needs_it(settings: Settings) -> None:
    before, _ = versions(settings)
    (settings.base_dir / "own_methods_of_test.py").unlink()
    after, _ = versions(settings)
    assert after != before


SPACE = """
from setr_lib.methods.method import VectorMethod

ByOwn = VectorMethod("by_own_of_test", lambda inputs: inputs.queries.reference_vectors, space="own")
"""


@pytest.mark.parametrize(
    ("name", "read"), [("own_space_of_test.py", RANKED), ("own_benchmark_of_test.py", OWN_BENCHMARKS)]
)
def test_spaces_and_benchmarks_count_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, read: str | When
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "by_own_of_test.py").write_text(SPACE, encoding="utf-8")
    (tmp_path / "setr.toml").write_text(
        '[coarse]\nstrategies = ["intersection", "by_own_of_test:ByOwn"]\n'
        '[spaces.own]\nkind = "own_space_of_test:Space"\n'
        '[datasets.mine]\nkind = "own_benchmark_of_test:Mine"\nroot = "."\n',
        encoding="utf-8",
    )
    for file in ("own_space_of_test.py", "own_benchmark_of_test.py"):
        (tmp_path / file).write_text("one = 1\n", encoding="utf-8")
    settings = load_settings(tmp_path / "setr.toml")
    before = CodeVersions(settings).version("1", [read])
    assert CodeVersions(settings).version("1", [read]) == before != "1"
    (tmp_path / name).write_text("two = 2\n", encoding="utf-8")
    assert CodeVersions(settings).version("1", [read]) != before


def test_code_of_a_benchmark_is_not_read_where_none_is_named_by_path(tmp_path: Path) -> None:
    (tmp_path / "setr.toml").write_text('[datasets.cirr]\nroot = "."\n', encoding="utf-8")
    assert CodeVersions(load_settings(tmp_path / "setr.toml")).version("1", [OWN_BENCHMARKS]) == "1"


def make(folder: Path, files: dict[str, str]) -> None:
    """Write Python files; each is named without its ending."""
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text, encoding="utf-8")


HELPED = """
import json
import numpy.linalg
import setr_lib.methods.method
from oc_helpers import TABLE
from oc_package.inner import what
import oc_not_there

Mine = raise_if_this_were_run()
"""


@pytest.fixture
def helped(tmp_path: Path) -> Path:
    """A module of one's own that imports others, some of them one another."""
    files = {
        "oc_mine": HELPED,
        "oc_helpers": "import oc_mine\nfrom oc_deeper import *\n",
        "oc_deeper": "DEEP = 1\n",
        "oc_package/__init__": "",
        "oc_package/inner": "from . import other\n\n\ndef f():\n    from .late import x\n",
        "oc_package/other": "x = 1\n",
        "oc_package/late": "x = 1\n",
        "oc_unused": "x = 1\n",
    }
    make(tmp_path, files)
    return tmp_path


def test_code_of_an_object_is_its_module_and_those_of_ones_own_that_it_imports(helped: Path) -> None:
    code = OwnCode(helped).of_module("oc_mine")
    package = ["oc_package", "oc_package.inner", "oc_package.late", "oc_package.other"]
    assert list(code) == ["oc_deeper", "oc_helpers", "oc_mine", *package]
    assert OwnCode(helped).of_module("oc_mine") == code
    assert not [name for name in sys.modules if name.startswith("oc_")]


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("oc_helpers.py", True),
        ("oc_deeper.py", True),
        ("oc_package/__init__.py", True),
        ("oc_package/late.py", True),
        ("oc_unused.py", False),
    ],
)
def test_an_edited_helper_changes_what_reads_the_method(helped: Path, file: str, counts: bool) -> None:
    (helped / "setr.toml").write_text('[coarse]\nstrategies = ["sum", "oc_mine:Mine"]\ndefault = "sum"\n')
    settings = load_settings(helped / "setr.toml")
    before = versions(settings)
    (helped / file).write_text((helped / file).read_text() + "# otherwise\n")
    after = versions(settings)
    assert (before[0] != after[0]) == counts and before[1] == after[1]


def test_only_the_folder_of_the_module_is_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs, installed = tmp_path / "mine", tmp_path / "theirs", tmp_path / "site-packages"
    make(mine, {"oc_mine": "import oc_theirs, oc_installed\n"})
    make(theirs, {"oc_theirs": "x = 1\n"})
    package = {"oc_installed/__init__": "from . import part\nimport oc_beside\n", "oc_installed/part": ""}
    make(installed, package | {"oc_beside": "x = 1\n"})
    monkeypatch.setattr(sys, "path", [*sys.path, str(theirs), str(installed)])
    assert list(OwnCode(mine).of_module("oc_mine")) == ["oc_mine"]
    assert list(OwnCode(mine).of_module("oc_installed")) == ["oc_installed", "oc_installed.part"]


@pytest.mark.parametrize("broken", [b"def f(:\n", b"x = '\xff'\n", b"\0", b"(" * 500])
def test_a_file_that_is_not_python_is_told_and_its_bytes_still_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: bytes
) -> None:
    make(tmp_path, {"oc_mine": "import oc_broken\n"})
    (tmp_path / "oc_broken.py").write_bytes(broken)
    before = OwnCode(tmp_path).of_module("oc_mine")
    assert list(before) == ["oc_broken", "oc_mine"]
    (said,) = caplog.messages
    assert "oc_broken.py: it is not Python" in said and said.endswith("mend the file")
    (tmp_path / "oc_broken.py").write_bytes(broken + b" ")
    assert OwnCode(tmp_path).of_module("oc_mine") != before


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, {"oc_mine": "import oc_gone\n", "oc_gone": ""})
    own = OwnCode(tmp_path)
    assert own._found("oc_gone") is not None
    (tmp_path / "oc_gone.py").unlink()
    assert own.of_module("oc_mine")["oc_gone"].startswith("unreadable: ")
    assert "oc_gone.py: it cannot be read (No such file" in caplog.text


BOUGHT = """
import oc_shop.parts

class Bought:
    name = "oc_bought"
    def scores(self, inputs): ...
"""


def installed_method(folder: Path, version: str = "1.0") -> None:
    info = folder / "oc_shop-1.0.dist-info"
    info.mkdir(exist_ok=True, parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: oc-shop\nVersion: {version}\n")
    (info / "entry_points.txt").write_text("[setr.methods]\noc_bought = oc_shop.methods:Bought\n")
    make(folder, {"oc_shop/__init__": "", "oc_shop/methods": BOUGHT, "oc_shop/parts": "x = 1\n"})


@pytest.mark.parametrize(("folder", "edited_counts"), [("site-packages", False), ("src", True)])
def test_an_installed_method_counts_by_its_version_and_where_it_is_edited_in_place_by_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, edited_counts: bool
) -> None:
    place = tmp_path / folder
    installed_method(place)
    monkeypatch.setattr(sys, "path", [*sys.path, str(place)])
    settings = Settings.model_validate({"coarse": {"strategies": ["sum", "oc_bought"], "default": "sum"}})
    before = versions(settings)[0]
    (place / "oc_shop" / "parts.py").write_text("x = 2\n")
    edited = versions(settings)[0]
    assert (edited != before) == edited_counts
    installed_method(place, "1.1")
    assert versions(settings)[0] not in (before, edited)


BUILT_IN = """
from setr_lib.methods.method import Method
from setr_lib.texts.answers import Answer, Text
from setr_lib.texts.kind import TextKind

class Line(Answer):
    line: Text

class Lines(Method):
    name = "oc_lines"
    needs = frozenset({"captions"})
    texts = (TextKind("lines", task="oc_line", per="query", answer=Line, prompt="{{ modification }}"),)
    def scores(self, inputs): ...

METHODS = (Lines(),)
"""


def test_a_built_in_method_is_its_module_alone_and_read_where_settings_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its prompt makes stale what makes its texts, and what is re-ranked by it; unnamed, it is not loaded."""
    slow = BUILT_IN.replace("oc_lines", "oc_slow") + "1 / 0\n"
    make(tmp_path / "built_in", {"oc_built_in": BUILT_IN, "oc_slow": slow})
    monkeypatch.setattr(methods_package, "__path__", [*methods_package.__path__, str(tmp_path / "built_in")])
    (tmp_path / "prompts").mkdir()
    sum_only = {"strategies": ["sum"], "default": "sum"}
    both = {"strategies": ["sum", "oc_lines"], "default": "sum"}

    def changes(coarse: dict[str, object], **reranking: object) -> set[str]:
        described = {"coarse": coarse, "reranking": reranking, "models": {"judge": {"prompts": "prompts"}}}
        settings = Settings.model_validate(described | {"base_dir": tmp_path})
        found = [CodeVersions(settings) for _ in range(2)]
        before = {each.name: found[0].version("1", each.reads) for each in blueprints()}
        prompt.write_text((prompt.read_text() if prompt.exists() else "") + "{{ modification }}\n")
        after = {each.name: found[1].version("1", each.reads) for each in blueprints()}
        reading.update({name for name in before if before[name] != "1"})
        return {name for name in before if before[name] != after[name]}

    prompt, reading = tmp_path / "prompts" / "oc_line.jinja", set[str]()
    assert changes(sum_only) == set()
    assert not {"method_texts", "reference_captions"} & reading
    assert changes(both) == {"method_texts"}
    assert {"method_texts", "reference_captions"} <= reading
    assert changes(both, methods=["oc_lines"]) == {"method_texts", "reranking_fusion"}
    other = tmp_path / "prompts" / "oc_line.circo.jinja"
    prompt = other
    assert changes(both) == {"method_texts"}
    prompt = tmp_path / "prompts" / "oc_liner.jinja"
    assert changes(both) == set()
    assert "setr_lib.methods.oc_slow" not in sys.modules
    sys.modules.pop("setr_lib.methods.oc_built_in")
