"""Settings are judged as a whole when they are read: what is refused, in which words, and who may name
code.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings, strategies
from pydantic import BaseModel

from setr_lib.cli import main
from setr_lib.methods.inputs import MethodError
from setr_lib.methods.method import get_method
from setr_lib.plugins import PluginError, load_object
from setr_lib.registry.bundle import BASE_VARIABLE
from setr_lib.registry.image_roots import ROOTS_VARIABLE
from setr_lib.registry.request_cells import LIMITS, variable_of
from setr_lib.registry.system_bundle import ENCODER_VARIABLE
from setr_lib.settings import (
    OTHER_VARIABLES,
    AdapterSettings,
    DatasetSettings,
    EncoderSettings,
    Settings,
    SettingsError,
    load_settings,
)

REPOSITORY = Path(__file__).parents[1]
NOBODY = 65534


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "setr.toml"


def refused(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


WRONG: list[tuple[str, str, str]] = [
    # text, the key that must be named, and how it is told
    ("[coarse]\nstrategies = []", "coarse", "name at least one"),
    ("[coarse]\ndefault = 'sums'", "coarse", "default, 'sums', is not among strategies"),
    ("[coarse]\nstrategies = ['image']", "coarse", "set default to one of image"),
    (
        "[coarse]\nstrategies = ['intersecton']",
        "coarse",
        "nearest is 'intersecton': is one",
    ),
    ("[reranking]\nmethods = ['intersecton']", "reranking", "the nearest is 'intersection': is one of"),
    ("[coarse]\ncaption_default = 'intersection'", "coarse", "is not among caption_strategies"),
    ("[coarse]\nstrategies = ['image', 'image', 'intersection']", "coarse.strategies", "named twice: image"),
    ("[coarse]\nstrategies = ['a/b', 'intersection']", "coarse.strategies.0", "'a/b' will not do"),
    ("[coarse]\nstrategies = ['a.b:c.d', 'intersection']", "coarse.strategies.0", "package.module:NAME"),
    ("[coarse]\ntop_k = 0", "coarse.top_k", "at least 1 (it is 0)"),
    ("[coarse]\ntop_k = true", "coarse.top_k", "write a number"),
    ("[coarse]\ntop_k = 99999999999999999999", "coarse.top_k", "at most"),
    ("[coarse]\ntopk = 5", "coarse.topk", "did you mean top_k?"),
    ("[coarse]\nanchor_share = nan", "coarse.anchor_share", "finite"),
    ("[reranking.adapter]\nepochs = inf", "reranking.adapter.epochs", "finite number (it is inf)"),
    ("[reranking.adapter]\nseed = -1", "reranking.adapter.seed", "at least 0"),
    ("[reranking.adapter]\ntarget_modules = []", "reranking.adapter.target_modules", "at least 1 item"),
    (
        "[reranking.adapter]\ntarget_modules = ['q', 'q']",
        "reranking.adapter.target_modules",
        "named twice: q",
    ),
    ("[reranking.adapter]\ntarget_modules = ['']", "reranking.adapter.target_modules", "an empty text"),
    ("[reranking]\nmethods = ['sums']", "reranking", "'sums' is not among [coarse] strategies"),
    ("[reranking]\nmethods = []", "reranking.methods", "at least 1 item"),
    ("[reranking]\nmethods = ['sum', 'sum']", "reranking.methods", "named twice: sum"),
    ("[reranking]\nrerankers = ['base']", "reranking.rerankers", "no re-ranker 'base'; known: adapter, base"),
    ("[reranking]\nrerankers = ['adapter', 'adapter']", "reranking.rerankers", "named twice: adapter"),
    ("[reranking]\nrerankers = ['a/b']", "reranking.rerankers.0", "'a/b' will not do"),
    ("[reranking]\njudge_weight = inf", "reranking.judge_weight", "finite"),
    ("[reranking.pairs]\nseed = -3", "reranking.pairs.seed", "at least 0"),
    (
        "[reranking.pairs.negatives_per_group]\nhard = 1",
        "reranking.pairs.negatives_per_group.hard",
        "'coarse_negative', 'reference_negative'",
    ),
    (
        "[reranking.pairs.negatives_per_group]\ncoarse_negative = -1",
        "reranking.pairs.negatives_per_group.coarse_negative",
        "at least 0",
    ),
    (
        "[reranking.pairs.negatives_per_group]\ncoarse_negative = 0",
        "reranking.pairs.negatives_per_group",
        "pairs to say No to",
    ),
    (
        "[reranking.pairs.negatives_per_group]\nreference_negative = 2",
        "reranking.pairs.negatives_per_group",
        "a group has one reference",
    ),
    ("[evaluation]\nseed = -1", "evaluation.seed", "at least 0"),
    ("[evaluation]\nseed = 4294967296", "evaluation.seed", "at most"),
    ("[miniature]\nsize = inf", "miniature.size", "finite"),
    ("[miniature]\nseed = -1", "miniature.seed", "at least 0"),
    ("[registry]\nmodel = 'team/model'", "registry.model", "'team/model' will not do: use letters"),
    ('[registry]\nmodel = "it\'s"', "registry.model", "will not do"),
    ("[registry]\nmodel = ''", "registry.model", "an empty text"),
    ("[registry]\nexperiment = '../elsewhere'", "registry.experiment", "will not do"),
    ("[storage]\nroot = 's3://bucket/setr'", "storage.root", "not a URL"),
    ("[storage]\nroot = 'file:/tmp/x'", "storage.root", "not a URL"),
    ("[storage]\nroot = ''", "storage.root", "an empty text"),
    ('[storage]\nroot = "a\\u0000b"', "storage.root", "control character"),
    ("[training]\ntriplets = 'https://example.org/t.jsonl'", "training.triplets", "not a URL"),
    ("[models]\ndevice = 'GPU 1'", "models.device", "'cuda:1'"),
    ("[models]\ndevice = 'meta'", "models.device", "'cuda:1'"),
    ("[models]\ndevice = 'foo:9'", "models.device", "'cuda:1'"),
    ("[registry]\ntracking_uri = 'htp://x'", "registry.tracking_uri", "not a store that MLflow knows"),
    ("[registry]\ntracking_uri = 'mlflow.db'", "registry.tracking_uri", "write sqlite:///mlflow.db"),
    ("[datasets.mine]\nroot = 'x'", "datasets.mine.kind", 'e.g. kind = "folder"'),
    ("[datasets.cirr]", "datasets.cirr.root", "it has to be given"),
    ("[datasets.cirr]\nroot = 5", "datasets.cirr.root", "write a path, in quotes (it is 5)"),
    ("[datasets.cirr]\nroot = 'x'\nsplits = 'val'", "datasets.cirr.splits", 'write a list: ["val"]'),
    ("datasets = 5", "datasets", "write a section"),
    ("[models.judge]\nbatch_size = -1", "models.judge.batch_size", "it has to be at least 1 (it is -1)"),
    ("[models.judge]\nbatch_size = 1.5", "models.judge.batch_size", "write a whole number (it is 1.5)"),
    (
        "[models.judge]\ndtype = 'fp16'",
        "models.judge.dtype",
        "'bfloat16' or 'float16' (it is 'fp16')",
    ),
    ("[registry]\nlog_evaluations = 'perhaps'", "registry.log_evaluations", "write true or false"),
    ("[reranking.adapter]\ndropout = 1", "reranking.adapter.dropout", "it has to be less than 1"),
    ("[registry]\ntracking_uri = 'foo bar'", "registry.tracking_uri", "which kind of store"),
    (f"[storage]\nroot = '{'a' * 300}'", "storage.root", "too long"),
    (f"[models.judge]\nname = '{'a' * 300}'", "models.judge.name", "too long"),
    (f"[datasets.cirr]\nroot = '{'b/' * 3000}'", "datasets.cirr.root", "too long"),
    ("[models.encoder]\nname = 'local-dir:'", "models.encoder.name", "the path of a folder"),
    ("[models.judge]\nname = ' '", "models.judge.name", "an empty text"),
    ("[models.judge]\nprompts = 'https://example.org'", "models.judge.prompts", "not a URL"),
    ("[datasets.cirr]\nroot = 'gs://b/c'", "datasets.cirr.root", "not a URL"),
    ("[datasets.cirr]\nroot = 'c'\nsplits = ['val', 'val']", "datasets.cirr.splits", "named twice: val"),
    ("[datasets.cirr]\nroot = 'c'\nsplitz = ['val']", "datasets.cirr.splitz", "did you mean splits?"),
    ("[datasets.-k]\nkind = 'folder'\nroot = 'c'", "datasets", "'-k': use lower-case letters"),
    ("[methods.sums]\nt = 1", "methods", "no configured method is called 'sums'; did you mean sum?"),
    ("[methods.sum.weights]\nt = 1", "methods", "sum.weights: write a text, a finite number, true or false"),
    ("[methods.sum]\nt = nan", "methods", "sum.t: write a text, a finite number"),
    ("[methods.sum]\nsince = 2024-01-01", "methods", "sum.since: write a text"),
    ("[spaces.clip]\nkind = 'open_clip'", "spaces", "'clip' is the embedding space of [models.encoder]"),
    ("[spaces.Mine]\nkind = 'open_clip'", "spaces", "'Mine': use lower-case letters"),
    ("[spaces.mine]\nkind = 'my space'", "spaces.mine.kind", "or package.module:NAME"),
    ("[spaces.mine]\nkinds = 'open_clip'", "spaces.mine.kinds", "did you mean kind?"),
    ("[spaces.mine]\nkind = 'a:B'\noptions = {device = 'cpu'}", "spaces.mine.options", "set [models] device"),
    ("[trainings]\ncaptions = 'x'", "trainings", "did you mean training?"),
    ("base_dir = '/elsewhere'", "base_dir", "there is no such key"),
    ("trusted = true", "trusted", "there is no such key"),
]


def test_options_of_methods_are_tables_of_plain_values(config: Path) -> None:
    config.write_text("[methods.sum]\nt = 0.5\nnames = ['a', 'b']\nfast = true\n", encoding="utf-8")
    assert load_settings(config).methods == {"sum": {"t": 0.5, "names": ["a", "b"], "fast": True}}
    own = "[coarse]\nstrategies = ['intersection', 'mine:Own']\n[methods.own]\nt = 1\n"
    config.write_text(own, encoding="utf-8")
    assert load_settings(config).methods == {"own": {"t": 1}}, "what mine:Own calls itself is not known yet"


def test_an_unknown_name_beside_a_path_is_judged_where_code_is_loaded(config: Path) -> None:
    config.write_text(
        "[coarse]\nstrategies = ['sum', 'mine:Own']\ndefault = 'own'\n"
        "[reranking]\nmethods = ['own']\nrerankers = ['mine:Judge', 'my judge']\n",
        encoding="utf-8",
    )
    assert load_settings(config).reranked_methods == ["own"]
    assert "'other:Own', is not among strategies" in refused(
        config, "[coarse]\nstrategies = ['mine:Own']\ndefault = 'other:Own'"
    )


def test_options_of_methods_from_the_environment(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("", encoding="utf-8")
    monkeypatch.setenv("SETR_METHODS", '{"sum": {"t": 0.5}}')
    assert load_settings(config).methods == {"sum": {"t": 0.5}}


@pytest.mark.parametrize(("text", "key", "words"), WRONG)
def test_what_cannot_work_is_refused_when_it_is_read(config: Path, text: str, key: str, words: str) -> None:
    message = refused(config, text)
    lines = [line for line in message.splitlines() if line.startswith(f"  {key}: ")]
    assert len(lines) == 1, message
    assert words in lines[0]


def test_doctor_and_runs_refuse_in_the_same_words(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text("[coarse]\nstrategies = []\n", encoding="utf-8")
    assert main(["--config", str(config), "doctor"]) == 2
    told = capsys.readouterr().err
    assert main(["--config", str(config), "leaderboard"]) == 1
    assert capsys.readouterr().err == told
    code = f"import os; os.environ['SETR_CONFIG'] = {str(config)!r}; import setr_assets.definitions"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and "name at least one" in done.stderr


def test_every_fault_is_named_at_once(config: Path) -> None:
    message = refused(config, "[coarse]\ntop_k = 0\n[evaluation]\nseed = -1\n[registry]\nmodel = 'a:b'\n")
    assert "3 setting(s) at fault" in message
    assert all(key in message for key in ("coarse.top_k", "evaluation.seed", "registry.model"))


def sections(section: type[BaseModel] = Settings, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key that holds a number."""
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from sections(kind, (*path, name))
        elif kind in (int, float) or {int, float} & set(get_args(kind)) or "Count" in str(kind):
            yield (*path, name)


NUMBERS = [*sections(), ("datasets", "mine", "rerank_top_k")]


def nested(path: tuple[str, ...], value: object) -> dict[str, Any]:
    made: Any = value
    for name in reversed(path):
        made = {name: made}
    if path[0] == "datasets":
        made["datasets"]["mine"] |= {"kind": "folder", "root": "m"}
    return made


def test_numbers_are_found_in_every_section() -> None:
    assert {path[0] for path in NUMBERS} == {
        "storage",
        "models",
        "coarse",
        "reranking",
        "evaluation",
        "miniature",
        "datasets",
        "images",
    }
    assert len(NUMBERS) > 30


@pytest.mark.parametrize("path", NUMBERS, ids=".".join)
@given(value=strategies.sampled_from([math.inf, -math.inf, math.nan, 10**30, -1, -0.5, True]))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_number_is_without_bounds(path: tuple[str, ...], value: object) -> None:
    with pytest.raises(ValueError, match=path[-1]):
        Settings.model_validate(nested(path, value))


@given(
    epochs=strategies.floats(0.01, 100),
    share=strategies.floats(0, 1),
    weight=strategies.floats(0, 100),
    seed=strategies.integers(0, 2**32 - 1),
    k=strategies.integers(1, 1000),
)
def test_numbers_within_their_bounds_are_taken_as_they_are(
    epochs: float, share: float, weight: float, seed: int, k: int
) -> None:
    made = Settings.model_validate(
        {
            "coarse": {"top_k": k, "anchor_share": share},
            "reranking": {"judge_weight": weight, "adapter": {"epochs": epochs, "seed": seed}},
        }
    )
    assert (made.coarse.top_k, made.coarse.anchor_share) == (k, share)
    assert (made.reranking.judge_weight, made.reranking.adapter.epochs) == (weight, epochs)
    assert made.reranking.adapter.seed == seed
    assert made.rerank_depth() == min(50, k)


def texts(value: object) -> Iterator[str]:
    """Every text within ``value``."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts(each)
    elif isinstance(value, str):
        yield value


def test_the_defaults_name_nothing_of_the_repository() -> None:
    made = Settings().model_dump(mode="json")
    made_here = {"root": "var", "removable_share": 0.2}
    assert made.pop("storage") == made_here, "nothing is read from it"
    found = list(texts(made))
    assert len(found) > 20
    inside = [text for text in found if (REPOSITORY / text.removeprefix("local-dir:")).exists()]
    assert not inside
    hub_ids = ["Qwen/Qwen3-VL-2B-Instruct", "Qwen/Qwen3-VL-Reranker-2B"]
    pages = ["http://127.0.0.1:5000", "http://127.0.0.1:3000"]
    assert [text for text in found if "/" in text or "\\" in text] == [*hub_ids, *pages]


def test_the_defaults_are_the_real_thing() -> None:
    made = Settings()
    encoder, judge = made.models.encoder, made.models.judge
    assert (encoder.name, encoder.pretrained) == ("ViT-L-14", "laion2b_s32b_b82k")
    assert (judge.name, judge.prompts) == ("Qwen/Qwen3-VL-2B-Instruct", "standard")
    assert not made.training.is_named
    assert made.reranking.adapter.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("said", "pretrained"),
    [
        ({}, "laion2b_s32b_b82k"),
        ({"name": "ViT-L-14"}, "laion2b_s32b_b82k"),
        ({"name": "ViT-L-14", "pretrained": "openai"}, "openai"),
        ({"pretrained": "openai"}, "openai"),
        ({"name": "local-dir:clip"}, None),
        ({"name": "ViT-B-32"}, None),
    ],
)
def test_the_default_weights_are_those_of_the_default_model_only(
    said: dict[str, str], pretrained: str | None
) -> None:
    options = EncoderSettings.model_validate(said)
    assert options.pretrained == pretrained
    assert EncoderSettings.model_validate(options.model_dump()) == options


def test_the_default_weights_leave_with_the_default_model_that_a_variable_replaces(
    monkeypatch: pytest.MonkeyPatch, config: Path
) -> None:
    config.write_text("[models.encoder]\nbatch_size = 3\n", encoding="utf-8")
    monkeypatch.setenv("SETR_MODELS__ENCODER__NAME", "local-dir:clip")
    found = load_settings(config).models.encoder
    assert (found.name, found.pretrained, found.batch_size) == ("local-dir:clip", None, 3)


def test_the_committed_file_is_the_whole_profile_of_the_miniature() -> None:
    made = load_settings(REPOSITORY / "setr.toml")
    weights = REPOSITORY / "setr_lib" / "miniature" / "weights"
    assert (made.encoder_name, made.judge_name) == (f"local-dir:{weights / 'clip'}", str(weights / "mllm"))
    assert (made.models.encoder.pretrained, made.models.judge.prompts) == (None, "miniature")
    assert made.training.captions == Path("var/miniature/training/captions.jsonl")
    assert made.reranking.adapter == AdapterSettings(learning_rate=1e-3)
    assert {each.root.parent for each in made.datasets.values()} == {Path("var/miniature")}


def test_the_judge_sees_no_more_than_stage_1_keeps(config: Path) -> None:
    config.write_text(
        "[coarse]\ntop_k = 8\n[datasets.cirr]\nroot = 'c'\nrerank_top_k = 5\n[datasets.circo]\nroot = 'o'"
    )
    found = load_settings(config)
    assert (found.rerank_depth("cirr"), found.rerank_depth("circo"), found.rerank_asked("circo")) == (
        5,
        8,
        50,
    )


def test_a_home_folder_is_expanded(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    config.write_text("[storage]\nroot = '~/setr'")
    assert load_settings(config).storage_root == Path("/home/someone/setr")


# --- the environment


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SETR_STORAGE__ROOT", "s3://bucket/setr", "storage.root: a folder or file of this machine"),
        ("SETR_COARSE__DEFAULT", "sums", "default, 'sums', is not among strategies"),
        (
            "SETR_RERANKING__ADAPTER__EPOCHS",
            "inf",
            "reranking.adapter.epochs: write a finite number",
        ),
        ("SETR_RERANKING__ADAPTER__EPOCHS", "inf", "[SETR_RERANKING__ADAPTER__EPOCHS]"),
        ("SETR_REGISTRY__MODEL", "a'b", "registry.model"),
        ("SETR_EVALUATION__SEED", "-1", "evaluation.seed"),
        ("SETR_COARSE__TOPK", "3", "coarse.topk: there is no such key; did you mean top_k?"),
        ("SETR_COARSE__TOPK", "3", "did you mean top_k? [SETR_COARSE__TOPK]"),
        ("SETR_DATASETS__CIRR__ROT", "x", "datasets.cirr.rot: there is no such key; did you mean root?"),
        ("SETR_DATASETS__CIRR__ROT", "x", "[SETR_DATASETS__CIRR__ROT]"),
        ("SETR_COARSE_TOP_K", "3", "did you mean SETR_COARSE__TOP_K?"),
        ("SETR_COARSE__STRATEGIES", "sum,image", """SETR_COARSE__STRATEGIES='["sum", "image"]' (it is"""),
        ("SETR_DATASETS__CIRR__SPLITS", "val", """SETR_DATASETS__CIRR__SPLITS='["val"]' (it is 'val')"""),
        ("SETR_COARSE", "sum", """SETR_COARSE='{"KEY": "VALUE"}' (it is 'sum')"""),
        ("SETR_FOO", "1", "there is no such variable; settings are SETR_SECTION__KEY"),
        ("SETR_STORGE__ROOT", "x", "did you mean SETR_STORAGE__ROOT?"),
        ("SETR_DATASET__MINE__ROOT", "x", "did you mean SETR_DATASETS__MINE__ROOT?"),
        ("setr_storge__root", "x", "did you mean SETR_STORAGE__ROOT?"),
        ("SETR_XYZZY", "x", "settings are SETR_SECTION__KEY"),
        ("SETR_TRUSTED", "true", "SETR_TRUSTED: there is no such variable"),
        ("SETR_BASE_DIR", "/", "SETR_BASE_DIR: there is no such variable"),
    ],
)
def test_variables_are_judged_too(
    config: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    assert words in refused(config, "")


def test_variables_that_are_no_settings_are_let_through(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {variable_of(limit) for limit in LIMITS}
    assert set(OTHER_VARIABLES) == {
        "SETR_CONFIG",
        BASE_VARIABLE,
        ENCODER_VARIABLE,
        ROOTS_VARIABLE,
        *limits,
    }
    for name in OTHER_VARIABLES:
        monkeypatch.setenv(name, str(config))
    monkeypatch.setenv("SETR_COARSE__TOP_K", "7")
    config.write_text("[coarse]\ntop_k = 9")
    assert load_settings().coarse.top_k == 7


def test_a_fault_of_file_and_variable_together_is_seen(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("[coarse]\nstrategies = ['image', 'sum']\ndefault = 'sum'")
    assert load_settings(config).coarse.default == "sum"
    monkeypatch.setenv("SETR_COARSE__STRATEGIES", '["image"]')
    assert "default, 'sum'" in refused(config, config.read_text())


# --- who may name code

PLUGIN = """
import numpy as np

class Mine:
    name = "mine"
    needs = frozenset()

    def scores(self, inputs):
        return np.zeros((len(inputs.queries.frame), len(inputs.gallery.vectors)), dtype=np.float32)
"""


def plugin(folder: Path, module: str, more: str = "") -> Path:
    """A settings file that names ``module:Mine``, with that module beside it."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    (folder / f"{module}.py").write_text(PLUGIN, encoding="utf-8")
    path = folder / "setr.toml"
    path.write_text(f'[coarse]\nstrategies = ["intersection", "{module}:Mine"]\n{more}', encoding="utf-8")
    path.chmod(0o644)
    return path


@pytest.fixture
def clean_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_a_module_beside_the_settings_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_path: None
) -> None:
    path = plugin(tmp_path / "own", "plugin_beside_settings")
    monkeypatch.chdir(path.parent)
    for found in (load_settings(), load_settings(path)):
        assert found.trusted
        assert get_method("plugin_beside_settings:Mine", found).name == "mine"
    assert sys.path[-1] == str(path.parent), "at the end: nothing installed is hidden"
    with pytest.raises(MethodError, match=r"cannot be loaded.*no_such_attribute"):
        get_method("plugin_beside_settings:no_such_attribute", found)


def test_the_path_is_left_alone_where_nothing_is_imported_by_name(tmp_path: Path, clean_path: None) -> None:
    path = plugin(tmp_path / "own", "plugin_not_asked_for")
    get_method("intersection", load_settings(path))
    assert str(path.parent) not in sys.path


def test_every_program_finds_the_module_beside_the_settings(tmp_path: Path) -> None:
    path = plugin(tmp_path / "own", "plugin_of_a_program", '[datasets.mine]\nkind = "folder"\nroot = "."\n')
    done = subprocess.run(
        [sys.executable, "-m", "setr_lib.cli", "doctor", "--json", "--quick"],
        cwd=path.parent,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "plugin_of_a_program:Mine" in done.stdout
    assert '"what": "methods"' in done.stdout
    assert "cannot be loaded" not in done.stdout
    code = (
        "from setr_assets.definitions import settings_of_this_checkout as s; from setr_lib.methods.method "
        "import get_method; print(get_method('plugin_of_a_program:Mine', s()).name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=path.parent,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "mine\n", done.stderr


@pytest.mark.parametrize("where", ["file", "folder"])
@pytest.mark.parametrize("how", ["owner", "group", "others"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[coarse]\nstrategies = ["intersection", "os:getcwd"]', "method 'os:getcwd' would run code"),
        ('[coarse]\ncaption_strategies = ["captions_intersection", "os:getcwd"]', "method 'os:getcwd'"),
        ("[spaces.x]\nkind = 'os:getcwd'", "[spaces.x] kind = 'os:getcwd' would run code"),
        ('[reranking]\nrerankers = ["os:getcwd"]', "re-ranker 'os:getcwd' would run code"),
        ("[models.judge]\ntrust_remote_code = true", "trust_remote_code = true would run code"),
    ],
)
def test_a_file_that_another_could_have_written_names_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, how: str, text: str, words: str
) -> None:
    folder = tmp_path / "shared"
    (folder / "below").mkdir(parents=True)
    path = folder / "setr.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    folder.chmod(0o755)
    changed = path if where == "file" else folder
    if how == "owner":
        if os.geteuid() != 0:
            pytest.skip("only root can give files away")
        os.chown(changed, NOBODY, -1)
    else:
        changed.chmod(changed.stat().st_mode | (0o020 if how == "group" else 0o002))
    monkeypatch.chdir(folder / "below")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert words in str(caught.value) and "--config or SETR_CONFIG" in str(caught.value)
    assert load_settings(path).trusted, "named, it is trusted"
    with pytest.raises(SettingsError):
        load_settings(else_from=folder)
    monkeypatch.chdir("/")
    with pytest.raises(SettingsError):
        load_settings(else_from=folder / "below")  # as the code location looks beside its package
    monkeypatch.setenv("SETR_CONFIG", str(path))
    assert load_settings().trusted


def test_a_file_that_another_could_have_written_may_say_everything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "setr.toml"
    path.write_text("[coarse]\ntop_k = 12\n[models.judge]\nprompts = 'my_prompts'", encoding="utf-8")
    path.chmod(0o666)
    monkeypatch.chdir(tmp_path)
    found = load_settings()
    assert (found.coarse.top_k, found.trusted) == (12, False)
    with pytest.raises(PluginError, match="would run code"):
        load_object("os:getcwd", found)
    with pytest.raises(MethodError, match="would run code"):
        get_method("os:getcwd", found)
    monkeypatch.setenv("SETR_MODELS__JUDGE__TRUST_REMOTE_CODE", "true")
    with pytest.raises(SettingsError, match="trust_remote_code"):  # the file still says which model's code
        load_settings()


def test_a_module_that_fails_is_told_in_words(tmp_path: Path, clean_path: None) -> None:
    path = plugin(tmp_path / "own", "plugin_with_a_typing_error")
    (path.parent / "plugin_with_a_typing_error.py").write_text("def broken(:\n")
    with pytest.raises(MethodError, match=r"cannot be loaded.*SyntaxError"):
        get_method("plugin_with_a_typing_error:Mine", load_settings(path))


def test_data_set_settings_are_a_section_of_their_own() -> None:
    with pytest.raises(ValueError, match="named twice"):
        DatasetSettings.model_validate({"kind": "cirr", "root": "c", "splits": ["val", "val"]})


def test_a_batch_size_is_a_number_or_found_by_trying(tmp_path: Path) -> None:
    config = tmp_path / "setr.toml"
    config.write_text('[models.encoder]\nbatch_size = "auto"\n', encoding="utf-8")
    found = load_settings(config)
    assert found.models.encoder.batch_size == "auto"
    assert found.batch_sizes == found.storage_root / "batch_sizes.json"
    config.write_text('[models.encoder]\nbatch_size = "large"\n', encoding="utf-8")
    with pytest.raises(SettingsError, match="batch_size"):
        load_settings(config)
