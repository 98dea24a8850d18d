"""The code location loads in a fresh interpreter without the heavy libraries, prints nothing and writes
nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HEAVY = ["torch", "torchvision", "open_clip", "transformers", "peft", "mlflow", "lancedb"]
ALSO_LATE = ["polars", "pyarrow", "numpy", "pandas", "PIL"]
REPOSITORY = Path(__file__).parents[2]


def fresh_python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # Only what an interpreter needs: no DAGSTER_HOME, no SETR_ variables.
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(REPOSITORY), **environment},  # this tree, whatever is installed
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_definitions_import_no_heavy_library(tmp_path: Path) -> None:
    code = (
        "import json, sys\nimport setr_assets.definitions\n"
        f"print(json.dumps([name for name in {HEAVY + ALSO_LATE!r} if name in sys.modules]))"
    )
    done = fresh_python(code, tmp_path, SETR_CONFIG=str(REPOSITORY / "setr.toml"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    assert done.stderr == ""


def test_trained_retrieval_systems_are_defined_without_a_heavy_library(tmp_path: Path) -> None:
    settings = tmp_path / "setr.toml"
    settings.write_text('[training]\ncaptions = "captions.jsonl"\n[systems.composing]\n[systems.qformer]\n')
    code = (
        "import json, sys\nimport setr_assets.definitions as d\n"
        "assert any(spec.key.path == ['promoted_composing'] for spec in d.defs.resolve_all_asset_specs())\n"
        f"print(json.dumps([name for name in {HEAVY + ALSO_LATE!r} if name in sys.modules]))"
    )
    done = fresh_python(code, tmp_path, SETR_CONFIG=str(settings))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_definitions_need_neither_data_nor_dagster_home_and_write_nothing(tmp_path: Path) -> None:
    settings = tmp_path / "setr.toml"
    settings.write_text('[datasets.cirr]\nkind = "cirr"\nroot = "nowhere"\nsplits = ["val"]\n')
    code = "import setr_assets.definitions as d; print(len(list(d.defs.resolve_all_asset_specs())))"
    done = fresh_python(code, tmp_path, SETR_CONFIG=str(settings))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 19
    assert [path.name for path in tmp_path.iterdir()] == ["setr.toml"]


def test_setr_help_imports_no_heavy_library(tmp_path: Path) -> None:
    code = (
        "import json, sys\nfrom setr_lib.cli import parser\nparser().format_help()\n"
        f"print(json.dumps([name for name in {[*HEAVY, *ALSO_LATE, 'dagster']!r} if name in sys.modules]))"
    )
    done = fresh_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_broken_settings_file_is_named(tmp_path: Path) -> None:
    settings = tmp_path / "setr.toml"
    settings.write_text("[coarse]\ntop_kk = 3\n")
    done = fresh_python("import setr_assets.definitions", tmp_path, SETR_CONFIG=str(settings))
    assert done.returncode != 0
    assert str(settings) in done.stderr
    assert "coarse.top_kk" in done.stderr
