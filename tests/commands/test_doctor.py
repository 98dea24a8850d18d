"""``setr doctor`` as a person and a program meet it: the exit status, the page, and the one JSON document."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from setr_lib.cli import main
from setr_lib.commands import setup_checks
from setr_lib.miniature.worlds import write_miniature
from setr_lib.registry.database import schema
from setr_lib.settings import load_settings
from setr_lib.texts.prompts import BUILT_IN
from tests.nasty import ACTING
from tests.tiny_judges import write_tiny_judge

SETTINGS = """
[models.encoder]
name = "local-dir:clip"

[models.judge]
name = "judge"
prompts = "miniature"

[training]
captions = "training/captions.jsonl"

[datasets.mine]
kind = "folder"
root = "pictures"
"""


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_judge("llava", tmp_path_factory.mktemp("judge"))


@pytest.fixture
def config(tmp_path: Path, judge: Path) -> Path:
    """Everything that a small data set of one's own needs; the encoder is only looked at, so its files may be
    empty.
    """
    (tmp_path / "judge").mkdir()
    for file in judge.iterdir():
        (tmp_path / "judge" / file.name).symlink_to(file)
    for name in ("clip/open_clip_config.json", "clip/w.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"model_cfg": {"embed_dim": 32}}')
    for name in ("pictures/a.png", "pictures/b.png", "training/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), "teal").save(tmp_path / name)
    (tmp_path / "training/captions.jsonl").write_text('{"image": "a.png", "caption": "teal"}\n')
    (tmp_path / "pictures/queries.csv").write_text("reference,modification,target\na.png,red,b.png\n")
    path = tmp_path / "setr.toml"
    path.write_text(SETTINGS, encoding="utf-8")
    return path


@pytest.fixture
def doctor(config: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    """``doctor(...)``: the exit status and the JSON document."""

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        status = main(["--config", str(config), "doctor", *arguments, "--json"])
        return status, json.loads(capsys.readouterr().out)

    return run


def statuses(document: dict[str, Any]) -> dict[str, str]:
    return {check["what"]: check["status"] for check in document["configured"]}


def test_all_is_well(doctor: Callable[..., Any]) -> None:
    status, found = doctor()
    assert (status, found["status"], found["problems"]) == (0, "ok", [])
    assert found["images_opened"] is True
    assert found["installed"]["polars"]
    assert (
        statuses(found)["encoder"] == statuses(found)["multimodal LLM"] == statuses(found)["prompts"] == "ok"
    )
    assert statuses(found)["MLflow store"] == "later"
    (mine,) = found["evaluation_sets"]
    assert (mine["key"], mine["queries"], mine["images"]["coverage"]) == ("mine", 1, 1.0)
    assert [can["possible"] for can in mine["can"]] == [True, False, True]
    assert found["training"] == {
        "images": 1,
        "missing": 0,
        "broken": 0,
        "triplets": None,
        "dataset": None,
        "problems": [],
    }
    assert found["disk"]["missing_images_bytes"] == 0
    assert found["disk"]["vectors_bytes"] == 2 * (4 * 32 + 200)
    assert found["disk"]["vision_features_at_most_bytes"] == 0


def test_kept_vision_features_are_told_beside_what_is_needed(
    doctor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, without = doctor()
    monkeypatch.setenv("SETR_MODELS__JUDGE__FEATURES_MB", "5")
    _, found = doctor()
    assert found["disk"]["vision_features_at_most_bytes"] == 5 * 2**20
    assert found["disk"]["needed_bytes"] == without["disk"]["needed_bytes"]


def test_a_judge_prompt_that_is_not_used_is_a_warning_and_no_fault(
    doctor: Callable[..., Any], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(BUILT_IN / "miniature", config.parent / "prompts")
    config.write_text(SETTINGS.replace('prompts = "miniature"', 'prompts = "prompts"'), encoding="utf-8")
    assert statuses(doctor()[1])["prompts"] == "ok"
    unused = config.parent / "prompts" / "judge.fashioniq.jinja"
    unused.write_text("<reference>{{ modification }}<candidate>is it ?")
    status, found = doctor()
    assert (status, found["status"], found["problems"]) == (0, "ok", [])
    check = next(each for each in found["configured"] if each["what"] == "prompts")
    assert check["status"] == "warning"
    assert check["detail"].startswith(f"{unused} is not used: a re-ranker has one judge prompt")
    assert main(["--config", str(config), "doctor"]) == 0
    assert "warning" in capsys.readouterr().out


def test_every_prompt_file_at_fault_is_told_with_its_line(doctor: Callable[..., Any], config: Path) -> None:
    folder = config.parent / "prompts"
    shutil.copytree(BUILT_IN / "miniature", folder)
    config.write_text(SETTINGS.replace('prompts = "miniature"', 'prompts = "prompts"'), encoding="utf-8")
    (folder / "compose.jinja").write_text("<reference>\n{{ modificaton }}")
    (folder / "judge.jinja").write_text("<reference>{{ 'x' * 10**10 }}<candidate>match ?")
    (folder / "yes_no.jinja").write_bytes(b"<image>\n\ncaf\xe9")
    status, found = doctor()
    (detail,) = (check["detail"] for check in found["configured"] if check["what"] == "prompts")
    assert status == 1 and statuses(found)["prompts"] == "broken"
    for told in ("compose.jinja, line 2: ", "judge.jinja, line 1: ", "yes_no.jinja, line 3: "):
        assert detail.count(f"{folder}/{told}") == 1, detail


def test_a_file_s_name_acts_on_no_terminal_and_json_tells_it_exactly(
    doctor: Callable[..., Any], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "\x1b[31m\u202e[bold]x.png"
    (config.parent / "pictures" / name).write_bytes(b"no image")
    _, found = doctor()
    (example,) = found["evaluation_sets"][0]["images"]["examples"]
    assert name in example
    assert main(["--config", str(config), "doctor"]) == 1
    page = capsys.readouterr().out
    assert not ACTING.search(page) and "\\u001b[31m\\u202e[bold]x.png" in page


def test_it_writes_nothing(doctor: Callable[..., Any], config: Path) -> None:
    before = sorted(config.parent.rglob("*"))
    doctor()
    assert sorted(config.parent.rglob("*")) == before


def test_the_page_says_the_same(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "doctor"]) == 0
    page = capsys.readouterr().out
    assert "all that the configured data sets need is there" in page
    (config.parent / "pictures/b.png").write_bytes(b"no image")
    assert main(["--config", str(config), "doctor", "mine"]) == 1
    page = capsys.readouterr().out
    assert "1 to mend:" in page
    assert f"{config.parent / 'pictures'}: 1 of 2 images are broken" in page
    assert "a partial gallery, 1 of 2" in page


def test_a_broken_image_is_found_unless_nobody_looks_inside(doctor: Callable[..., Any], config: Path) -> None:
    (config.parent / "pictures/b.png").write_bytes(b"no image")
    status, found = doctor()
    assert (status, found["status"]) == (1, "incomplete")
    assert found["evaluation_sets"][0]["images"]["broken"] == 1
    assert doctor("--quick")[0] == 0


def test_a_broken_image_of_training_counts_only_for_everything(
    doctor: Callable[..., Any], config: Path
) -> None:
    (config.parent / "training/a.png").unlink()
    status, found = doctor()
    assert (status, found["training"]["missing"]) == (1, 1)
    status, found = doctor("mine")
    assert (status, found["training"]) == (0, None)
    (config.parent / "training/captions.jsonl").unlink()
    assert "captions.jsonl" in doctor()[1]["problems"][0]


@pytest.mark.parametrize(
    ("change", "what", "status", "words"),
    [
        ('name = "local-dir:clip"', "encoder", "missing", "no such folder"),
        ('name = "judge"', "multimodal LLM", "missing", "no hub id"),
        ('prompts = "miniature"', "prompts", "broken", "neither a built-in set"),
    ],
)
def test_what_is_not_configured_well_is_told(
    config: Path, doctor: Callable[..., Any], change: str, what: str, status: str, words: str
) -> None:
    key, _, value = change.partition(' = "')
    wrong = f'{key} = "{"local-dir:" if "local-dir" in value else ""}not/there/at/all"'
    config.write_text(SETTINGS.replace(change, wrong), encoding="utf-8")
    code, found = doctor()
    assert code == 1
    assert statuses(found)[what] == status
    assert words in next(check["detail"] for check in found["configured"] if check["what"] == what)


@pytest.mark.parametrize(
    ("models", "status", "words"),
    [
        ('encoder.name = "ViT-B-32"', "ok", "random"),
        (
            'encoder.name = "ViT-B-32"\nencoder.pretrained = "laion2b_s34b_b79k"',
            "missing",
            "forbids downloads",
        ),
        ('encoder.name = "hf-hub:someone/something"', "missing", "forbids downloads"),
        ('encoder.name = "no-such"', "broken", "no model of that name"),
        ('encoder.name = "ViT-L14"', "broken", "did you mean 'ViT-L-14'?"),
        ('encoder.pretrained = "laion2b"', "broken", "did you mean laion2b_s32b_b82k?"),
    ],
)
def test_named_encoders(tmp_path: Path, models: str, status: str, words: str) -> None:
    path = tmp_path / "setr.toml"
    path.write_text(f"[models]\n{models}\n")
    checks = {check.what: check for check in setup_checks.configured(load_settings(path), set())}
    assert checks["encoder"].status == status
    assert words in checks["encoder"].detail


def test_dimension_of_a_named_encoder(tmp_path: Path) -> None:
    path = tmp_path / "setr.toml"
    path.write_text('[models]\nencoder.name = "ViT-L-14"\n')
    assert setup_checks.embedding_dimension(load_settings(path)) == 768


def test_a_hub_id_is_looked_for_and_a_default_must_be_a_method_for_images(tmp_path: Path) -> None:
    path = tmp_path / "setr.toml"
    path.write_text(
        '[models]\njudge.name = "nobody/has-this-model"\n'
        '[coarse]\nstrategies = ["captions_text"]\ndefault = "captions_text"\n'
    )
    checks = {check.what: check for check in setup_checks.configured(load_settings(path), {"cirr"})}
    assert checks["multimodal LLM"].status == "missing"
    assert "HF_HUB_OFFLINE=1" in checks["multimodal LLM"].detail
    assert checks["methods"].status == "broken"
    assert "no images to judge" in checks["methods"].detail


@pytest.mark.parametrize(
    ("coarse", "words"),
    [
        ('caption_strategies = ["captions_txt"]\ncaption_default = "captions_txt"', "'captions_txt'"),
        (
            'caption_strategies = ["image"]\ncaption_default = "image"',
            "'image' searches vectors, not captions",
        ),
    ],
)
def test_caption_methods_are_looked_at_too(
    config: Path, doctor: Callable[..., Any], coarse: str, words: str
) -> None:
    config.write_text(f"{SETTINGS}\n[coarse]\n{coarse}\n", encoding="utf-8")
    status, found = doctor("--quick")
    assert (status, statuses(found)["methods"]) == (1, "broken")
    assert any(words in problem for problem in found["problems"])
    config.write_text(f"{SETTINGS}\n[coarse]\ncaption_strategies = []\n", encoding="utf-8")
    assert doctor("--quick")[0] == 0  # nobody has to search captions


PLUGIN = """
from setr_lib.methods.method import VectorMethod
from setr_lib.spaces.space import EmbeddingSpace

class Mine(EmbeddingSpace):
    def __init__(self, device, size=3):
        raise RuntimeError("the doctor loads no space")
    def embed_images(self, images): ...

ByMine = VectorMethod("by_mine", lambda inputs: inputs.queries.reference_vectors, space="mine")
"""
SEARCHED = '[coarse]\nstrategies = ["intersection", "doctor_plugin:ByMine"]\n'


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        (SEARCHED + '[spaces.mine]\nkind = "doctor_plugin:Mine"\n', "ok", ""),
        ('[spaces.mine]\nkind = "doctor_plugin:Mine"\n', "warning", "no configured method searches it"),
        (
            SEARCHED + '[spaces.mine]\nkind = "doctor_plugin:Mine"\noptions = {sizes = 3}\n',
            "broken",
            "[spaces.mine.options] do not fit: got an unexpected keyword argument 'sizes'",
        ),
        (SEARCHED + '[spaces.mine]\nkind = "doctor_plugin:Absent"\n', "broken", "Absent"),
        (
            SEARCHED + '[spaces.mine]\nkind = "open_clip"\noptions = {name = "local-dir:no"}\n',
            "missing",
            "no such folder",
        ),
        (SEARCHED + '[spaces.mine]\nkind = "open_clip"\n', "broken", "missing a required argument: 'name'"),
    ],
)
def test_spaces_are_looked_up_and_their_images_counted(
    config: Path,
    doctor: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    status: str,
    words: str,
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (config.parent / "doctor_plugin.py").write_text(PLUGIN, encoding="utf-8")
    config.write_text(f"{SETTINGS}\n{text}", encoding="utf-8")
    code, found = doctor()
    sys.modules.pop("doctor_plugin", None)
    assert statuses(found)["space mine"] == status
    assert code == (1 if status in ("broken", "missing") else 0)
    check = next(each for each in found["configured"] if each["what"] == "space mine")
    assert words in check["detail"]
    images = {"clip": 2, "mine": 2} if text.startswith(SEARCHED) else {"clip": 2}
    assert found["images_to_embed"] == images


def test_models_of_captions_and_of_the_qwen_reranker_are_looked_at(
    config: Path, doctor: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    captioned = '[coarse]\ncaption_strategies = ["captions_intersection", "captions_union_dense"]\n'
    named = '[reranking]\nrerankers = ["base judge", "qwen3-vl-reranker"]\n[models.reranker]\nname = "qwen"\n'
    space = '[spaces.sentences]\nkind = "sentence_transformers"\noptions = {model = "judge"}\n'
    config.write_text(SETTINGS + captioned + named + space, encoding="utf-8")
    checks = {check["what"]: check for check in doctor()[1]["configured"]}
    assert checks["space sentences"]["status"] == "ok", "searched, though by methods of captions"
    assert checks["re-ranker's model"]["status"] == "missing"
    config.write_text(SETTINGS + captioned + named + space.replace("judge", "pictures"), encoding="utf-8")
    checks = {check["what"]: check for check in doctor()[1]["configured"]}
    assert checks["space sentences"]["status"] == "missing"


def test_the_folder_of_a_blip2_space_is_looked_at(
    config: Path, doctor: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    space = '[spaces.blip2]\nkind = "blip2"\noptions = {name = "judge"}\n'
    config.write_text(SETTINGS + space, encoding="utf-8")
    assert statuses(doctor()[1])["space blip2"] == "warning", "it is there, and no method searches it"
    config.write_text(SETTINGS + space.replace("judge", "pictures"), encoding="utf-8")
    assert statuses(doctor()[1])["space blip2"] == "missing"
    config.write_text(SETTINGS + space.replace("name", "model"), encoding="utf-8")
    assert statuses(doctor()[1])["space blip2"] == "broken"


def test_a_method_whose_space_is_not_described_is_told(
    config: Path, doctor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (config.parent / "doctor_plugin.py").write_text(PLUGIN, encoding="utf-8")
    config.write_text(f"{SETTINGS}\n{SEARCHED}", encoding="utf-8")
    code, found = doctor()
    sys.modules.pop("doctor_plugin", None)
    assert (code, statuses(found)["methods"]) == (1, "broken")
    (problem,) = [each for each in found["problems"] if "by_mine" in each]
    assert "write a section [spaces.mine]" in problem


RAISING = """
from setr_lib.benchmarks.kinds.folder import Folder

class Raising(Folder):
    kind, title = "raising", "Raising pictures"
    {hook} = lambda self, evaluation_set: {result}
"""


@pytest.mark.parametrize("result", ["{}['size']", "3"])
@pytest.mark.parametrize("hook", ["files", "image_source", "gallery_key"])
def test_what_a_benchmark_raises_is_told_with_its_name_and_the_rest_is_looked_at(
    config: Path, doctor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, hook: str, result: str
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    plugin = config.parent / "doctor_plugin.py"
    plugin.write_text(RAISING.replace("{hook}", hook).replace("{result}", result), encoding="utf-8")
    own = '[datasets.own]\nkind = "doctor_plugin:Raising"\nroot = "pictures"\n'
    config.write_text(f"{SETTINGS}\n{own}", encoding="utf-8")
    status, found = doctor()
    sys.modules.pop("doctor_plugin", None)
    (problem,) = found["problems"]
    assert status == 1 and problem.startswith(f"own: {hook} of own (Raising pictures) ")
    assert ("KeyError: 'size' (doctor_plugin.py, line 6)" in problem) == (result != "3")
    mine, raising = found["evaluation_sets"]
    assert (mine["status"], raising["status"]) == ("ok", "incomplete")
    assert (raising["queries"], raising["images"]["ok"]) == (1, 2)


def test_a_re_ranker_that_cannot_be_had_is_broken(config: Path, doctor: Callable[..., Any]) -> None:
    text = '[reranking]\nrerankers = ["base judge", "no_such_module:Mine"]\n'
    config.write_text(f"{SETTINGS}\n{text}", encoding="utf-8")
    status, found = doctor("--quick")
    assert (status, statuses(found)["re-rankers"]) == (1, "broken")
    assert any("no_such_module" in problem for problem in found["problems"])


def test_an_mlflow_store_is_opened_but_not_changed(config: Path, doctor: Callable[..., Any]) -> None:
    newest = schema()
    assert newest is not None
    store = config.parent / "var" / "mlflow.db"
    store.parent.mkdir()
    store.write_bytes(b"this is no database, whatever its name says" * 30)
    assert statuses(doctor()[1])["MLflow store"] == "broken"
    store.unlink()
    with sqlite3.connect(store) as connection:
        connection.execute("CREATE TABLE experiments (name TEXT)")
    connection.close()
    before = store.read_bytes()
    assert statuses(doctor()[1])["MLflow store"] == "warning", "its creation was broken off"
    assert store.read_bytes() == before
    for revision, status in ((newest.newest, "ok"), ("0a0a0a0a0a0a", "broken")):
        with sqlite3.connect(store) as connection:
            connection.execute("DROP TABLE IF EXISTS alembic_version")
            connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
            connection.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
        connection.close()
        assert statuses(doctor()[1])["MLflow store"] == status
    with sqlite3.connect(store) as connection:
        connection.execute("INSERT INTO experiments VALUES ('mine')")
        connection.execute(
            "UPDATE alembic_version SET version_num = ?", (min(newest.known - {newest.newest}),)
        )
    connection.close()
    status, found = doctor()
    assert (status, statuses(found)["MLflow store"]) == (1, "broken")
    (problem,) = found["problems"]
    assert f"cp {store} {store}.before-upgrade\n" in problem and "mlflow db upgrade sqlite:///" in problem


def test_a_package_that_is_gone_is_named(doctor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_checks, "_required", lambda: iter(["polars", "no-such-package"]))
    status, found = doctor()
    assert status == 1
    assert found["installed"]["no-such-package"] is None
    assert "no-such-package" in found["problems"][0]


@pytest.mark.parametrize(
    "text",
    [
        "a = \n",
        "[nonsense]\n",
        '[datasets.x]\nkind = "cirr"\n',
        '[datasets.x]\nkind = "cirr"\nroot = "x"\nsplits = ["dev"]\n',
    ],
)
def test_unreadable_settings_are_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = tmp_path / "setr.toml"
    path.write_text(text, encoding="utf-8")
    assert main(["--config", str(path), "doctor"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("setr: ")
    assert main(["--config", str(path), "doctor", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == "settings unreadable"
    assert len(document["problems"]) == 1
    assert main(["--config", str(path), "leaderboard"]) == 1, "other commands keep their status"


def test_no_settings_file_at_the_place_named_is_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(tmp_path / "none.toml"), "doctor"]) == 2
    assert "no such settings file" in capsys.readouterr().err


def test_a_settings_file_or_variable_that_cannot_be_read_is_status_2(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--config", str(tmp_path), "doctor"]) == 2
    assert f"{tmp_path}: is a folder: name the settings file, " in capsys.readouterr().err
    monkeypatch.setenv("SETR_DATASETS", "not JSON")
    assert main(["--config", str(config), "doctor"]) == 2
    assert "SETR_... variables" in capsys.readouterr().err


def test_an_unknown_data_set_is_answered_with_the_known_ones(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config), "doctor", "coco"]) == 1
    assert "there is mine" in capsys.readouterr().err


def test_the_environment_wins(
    config: Path, doctor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SETR_DATASETS__MINE__ROOT", str(tmp_path / "elsewhere"))
    status, found = doctor("mine")
    assert status == 1
    assert str(tmp_path / "elsewhere") in found["problems"][0]


def test_the_miniature_as_it_is_drawn_is_judged_fine(
    tmp_path: Path, config: Path, doctor: Callable[..., Any]
) -> None:
    write_miniature(tmp_path / "world", seed=1, size=0.02, training_images=16, processes=1)
    sets = "".join(
        f'[datasets.{kind}]\nkind = "{kind}"\nroot = "world/{kind}"\nsplits = ["val", "{hidden}"]\n'
        for kind, hidden in (("cirr", "test1"), ("fashioniq", "test"), ("circo", "test"))
    )
    text = SETTINGS.replace('"training/captions.jsonl"', '"world/training/captions.jsonl"')
    config.write_text(text + sets, encoding="utf-8")
    status, found = doctor()
    assert (status, found["problems"]) == (0, [])
    assert len(found["evaluation_sets"]) == 7
    assert {each["counts_of"] for each in found["evaluation_sets"]} == {"miniature", "own"}
    assert all(
        file["official_entries"] is None for each in found["evaluation_sets"] for file in each["files"]
    )


def test_a_baseline_that_is_not_a_method_is_told(config: Path, doctor: Callable[..., Any]) -> None:
    config.write_text(f'{SETTINGS}\n[evaluation]\nbaselines = ["no_such_method"]\n', encoding="utf-8")
    code, found = doctor()
    assert code == 1
    assert any("there is no retrieval method 'no_such_method'" in problem for problem in found["problems"])


CIRR = '[datasets.cirr]\nroot = "cirr"\ntrain_root = "{root}"\n'


@pytest.mark.parametrize(
    ("systems", "status", "words"),
    [
        (
            "[systems.mapping]\nencoder = 'big'\n"
            "[spaces.big]\nkind = 'open_clip'\noptions = { name = 'RN50' }\n",
            "broken",
            "the vision tower of RN50 gives none",
        ),
        ("[systems.prompt_tuned]\ntriplets = 'mine'\n", "broken", "has no train split"),
        (
            "[systems.prompt_tuned]\ntriplets = 'cirr'\n" + CIRR.format(root="away"),
            "missing",
            "it comes from",
        ),
        (
            "[systems.prompt_tuned]\ntriplets = 'cirr'\n" + CIRR.format(root="var/miniature/train/cirr"),
            "later",
            "`setr miniature write --train` draws it",
        ),
        ("[systems.composing]\n", "ok", "it builds on mapping, which is trained before it"),
        ("[systems.pic2word]\n", "ok", ""),
    ],
)
def test_trained_systems_are_looked_at(
    config: Path, doctor: Callable[..., Any], systems: str, status: str, words: str
) -> None:
    config.write_text(SETTINGS + systems, encoding="utf-8")
    found = [check for check in doctor("--quick")[1]["configured"] if check["what"] == "trained system"]
    assert found[-1]["status"] == status and words in found[-1]["detail"], found


def test_where_no_system_is_named_none_is_looked_at(doctor: Callable[..., Any]) -> None:
    assert "trained system" not in statuses(doctor("--quick")[1])


def test_what_is_still_of_the_place_of_before_is_told(config: Path, doctor: Callable[..., Any]) -> None:
    assert main(["--config", str(config), "env", "--write", "--quiet"]) == 0
    assert statuses(doctor()[1])["environment file"] == "ok"
    env_file = config.parent / ".env"
    env_file.write_text(env_file.read_text().replace(str(config.parent), "/elsewhere/setr"))
    status, found = doctor()
    assert (status, statuses(found)["environment file"]) == (1, "broken")
    (problem,) = found["problems"]
    assert "was written for the project in /elsewhere/setr" in problem and "`setr env --write`" in problem

    assert statuses(found)["installed code"] == "ok"
    (config.parent / "setr_lib").mkdir()
    (config.parent / "setr_lib" / "__init__.py").touch()
    found = doctor()[1]
    assert statuses(found)["installed code"] == "warning"
    (check,) = (each for each in found["configured"] if each["what"] == "installed code")
    assert f"not that of {config.parent}: `make setup` there" in check["detail"]
