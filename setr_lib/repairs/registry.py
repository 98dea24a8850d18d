"""``setr repair registry``: MLflow's database, and the files of the models that it logged.

Rows of the database that can be read are kept. A logged model with a damaged file gets it back from its
training's result where that is whole; else the model is set aside, and its version is taken out of use, so
that the next run makes it again.
"""

from __future__ import annotations

import shutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from setr_lib.errors import SetrError
from setr_lib.faults import file_fault, json_fault, safetensors_fault, sqlite_fault
from setr_lib.files import replacing, sqlite_path
from setr_lib.pipeline.storage import or_run_everything
from setr_lib.repairs.aside import Finding, SetAside, refuse_in_use
from setr_lib.repairs.sqlite_rows import salvage, unreadable_rows
from setr_lib.settings import Settings

_NEEDED = ("alembic_version", "experiments", "runs", "registered_models", "model_versions")
_MOVED = "setr_lib.registry.database"
"""A module that may have more to mend: ``repair(settings, look_only) -> list[str]``, a sentence for each."""
_OUT_OF_USE = "setr.damaged"
"""The tag of a version whose files were damaged."""


def repair(settings: Settings, aside: SetAside) -> tuple[int, list[Finding]]:
    """Look at the database and at every logged model.

    Args:
        settings: They say where both are.
        aside: Takes what is damaged.

    Returns:
        How many databases and models are whole, and what was found.
    """
    whole, findings = 0, list[Finding]()
    if (database := sqlite_path(settings.tracking_uri)) is not None:
        found = _database(settings, database, aside)
        findings += found
        whole += not found and database.is_file()
    root = settings.artifact_root
    if root.exists() and not root.is_dir():
        aside.take(root)
        findings.append(Finding(root, "is a file where a folder should be", aside.verb, _again(settings)))
    for model in sorted(root.glob("*/models/m-*")) if root.is_dir() else []:
        if (finding := _model(settings, model, aside)) is None:
            whole += 1
        else:
            findings.append(finding)
    for folder in sorted((root / "fetched").glob("*/*")) if root.is_dir() else []:
        if (fault := _folder_fault(folder)) is not None:
            aside.take(folder)
            findings.append(Finding(folder, fault, aside.verb, "it is fetched again from its store"))
    return whole, [*findings, *_moved(settings, aside)]


def _again(settings: Settings) -> str:
    return (
        "finished trainings are registered again without being trained: materialize the registered and "
        f"promoted assets, {or_run_everything(settings)}"
    )


def _database(settings: Settings, path: Path, aside: SetAside) -> list[Finding]:
    parent = next((each for each in path.parents if each.exists()), path.parent)
    if not parent.is_dir():
        aside.take(parent)
        return [Finding(parent, "is a file where a folder should be", aside.verb, _again(settings))]
    findings = list[Finding]()
    for lock in sorted(path.parent.glob(f"{path.name}*.lock")):
        if lock.is_dir():
            aside.take(lock)
            findings.append(Finding(lock, "is a folder where a lock file should be", aside.verb))
    if not path.exists() and not path.is_symlink():
        return findings
    fault = sqlite_fault(path, "experiments")
    if fault is None and unreadable_rows(path):
        fault = "has rows that cannot be read"
    if fault is None:
        return findings
    if not path.is_file():
        aside.take(path)
        return [*findings, Finding(path, fault, aside.verb, _again(settings))]
    refuse_in_use(path)
    return [*findings, _salvaged(settings, path, fault, aside)]


def _salvaged(settings: Settings, path: Path, fault: str, aside: SetAside) -> Finding:
    if aside.look_only:
        return Finding(path, fault, "its readable rows would be kept", _again(settings), mended=False)
    fresh = path.with_name(f".{path.name}.mended")
    fresh.unlink(missing_ok=True)
    kept = salvage(path, fresh)
    for end in ("", "-wal", "-shm", "-journal"):
        aside.take(path.with_name(path.name + end))
    complete = all(kept.rows.get(table) for table in _NEEDED[:2]) and set(_NEEDED) <= set(kept.rows)
    if complete and not set(kept.broken) & set(_NEEDED):
        fresh.replace(path)
        words = (
            f"{aside.verb}; {kept.total:,} readable rows are kept, all runs, models and versions among them"
        )
        return Finding(path, fault, words)
    # Half a registry would name versions whose runs are gone.
    fresh.unlink(missing_ok=True)
    return Finding(path, fault, f"{aside.verb}; the next run makes a new one", _again(settings))


def _model(settings: Settings, folder: Path, aside: SetAside) -> Finding | None:
    """What is wrong with a logged model, mended."""
    if not folder.is_dir():
        fault: str | None = "is a file where a folder should be"
    else:
        fault = _folder_fault(folder) or _missing(folder) or _content_fault(folder)
    if fault is None:
        return None
    if aside.look_only:
        return Finding(folder, fault, "would be set aside", _again(settings), mended=False)
    if folder.is_dir() and _given_back(settings, folder, aside) and _folder_fault(folder) is None:
        return Finding(
            folder, fault, "the damaged file is set aside; a whole one of the same training is back"
        )
    aside.take(folder)
    try:
        done = _out_of_use(settings, folder.name)
    except SetrError as error:
        return Finding(
            folder, fault, f"{aside.verb}; its version is still in the store ({error})", mended=False
        )
    return Finding(folder, fault, f"{aside.verb}{done}", _again(settings))


def _folder_fault(folder: Path) -> str | None:
    for path in sorted(folder.rglob("*")):
        fault = _file_fault(path)
        if fault is not None:
            return f"holds {path.relative_to(folder)}, which {fault}"
    return None


def _file_fault(path: Path) -> str | None:
    if path.is_dir():
        is_wrong = path.suffix in (".json", ".safetensors", ".parquet", ".yaml") or path.name == "MLmodel"
        return "is a folder where a file should be" if is_wrong else None
    if path.suffix == ".json":
        return json_fault(path)
    if path.suffix == ".safetensors":
        return safetensors_fault(path)
    if path.suffix == ".parquet":
        return _table_fault(path)
    return file_fault(path) if path.name == "MLmodel" or path.suffix in (".py", ".jinja") else None


def _table_fault(path: Path) -> str | None:
    import polars as pl

    if (fault := file_fault(path)) is not None:
        return fault
    try:
        pl.read_parquet(path, use_statistics=False)
    except Exception:
        return "is cut or overwritten"
    return None


def _missing(folder: Path) -> str | None:
    """A file that a logged model must have and has not."""
    names = ["MLmodel"]
    bundle = folder / "artifacts" / "artifacts"
    if (bundle / "judge").is_dir() or (bundle / "adapter").is_dir():
        names += ["adapter/adapter_model.safetensors", "adapter/adapter_config.json", "judge/reranker.json"]
        names += ["judge/examples.parquet", "judge/prompts/judge.jinja"]
    elif (bundle / "system").is_dir():
        names += ["system/weights.safetensors", "system/system.json", "system/held_out.parquet"]
    places = [folder / "artifacts" / names[0], *(bundle / name for name in names[1:])]
    lacking = next((place for place in places if not place.is_file()), None)
    return None if lacking is None else f"lacks {lacking.relative_to(folder)}"


def _content_fault(folder: Path) -> str | None:
    """What is wrong with the records of a bundle, whose files are all there."""
    from setr_lib.registry.bundle import Bundle
    from setr_lib.systems.bundle import read_system

    bundle = folder / "artifacts" / "artifacts"
    try:
        if (bundle / "judge").is_dir():
            Bundle(bundle / "adapter", bundle / "judge").check()
        elif (bundle / "system").is_dir():
            read_system(bundle / "system")
    except SetrError:
        return "holds a record that lacks what SETR writes there"
    return None


def _given_back(settings: Settings, folder: Path, aside: SetAside) -> bool:
    """Put the trained tensors back from the result of the training whose digest the model names."""
    bundle = folder / "artifacts" / "artifacts"
    for note, inside, names in (
        ("judge/reranker.json", "adapter", ("adapter_model.safetensors", "adapter_config.json")),
        ("system/system.json", "system", ("weights.safetensors",)),
    ):
        from setr_lib.files import read_json

        run = (read_json(bundle / note) or {}).get("run")
        if not isinstance(run, str):
            continue
        result = settings.checkpoint_root / run[:16]
        if (read_json(result / "result.json") or {}).get("run") != run:
            return False
        result = result / "adapter" if inside == "adapter" else result
        for name in names:
            mine, theirs = bundle / inside / name, result / name
            if _file_fault(theirs) is None and theirs.is_file() and (not mine.is_file() or _file_fault(mine)):
                aside.take(mine)
                with replacing(mine) as partial:
                    shutil.copyfile(theirs, partial)
        return _missing(folder) is None
    return False


def _out_of_use(settings: Settings, model_id: str) -> str:
    """Take the version of a logged model out of use: no alias names it, and no training finds it again."""
    from setr_lib.registry.registered_model import CHALLENGER, CHAMPION
    from setr_lib.registry.runs import RUN_TAG
    from setr_lib.registry.store import MlflowRegistry

    registry = MlflowRegistry.from_settings(settings)
    if not registry.exists():
        return ""
    client, words = registry.client, ""
    for registered in client.search_registered_models():
        for version in client.search_model_versions(f"name='{registered.name}'"):
            if model_id not in (getattr(version, "model_id", None), str(version.source).rpartition("/")[2]):
                continue
            digest = str(version.tags.get(RUN_TAG, ""))
            client.set_model_version_tag(registered.name, version.version, _OUT_OF_USE, digest or "true")
            client.set_model_version_tag(registered.name, version.version, RUN_TAG, f"{digest} (damaged)")
            for alias in (CHAMPION, CHALLENGER):
                if str(registered.aliases.get(alias)) == str(version.version):
                    client.delete_registered_model_alias(registered.name, alias)
            words += f"; version {version.version} of {registered.name} is out of use"
    client.delete_logged_model(model_id)  # MLflow marks it as deleted; its record stays
    return words


def _moved(settings: Settings, aside: SetAside) -> list[Finding]:
    """What the module that knows of moved projects and of MLflow's migrations mends, where there is one."""
    if find_spec(_MOVED) is None:
        return []
    work = getattr(import_module(_MOVED), "repair", None)
    if work is None:
        return []
    database = sqlite_path(settings.tracking_uri) or settings.artifact_root
    done = "would be mended" if aside.look_only else "seen to"
    return [Finding(database, sentence, done) for sentence in work(settings, aside.look_only)]
