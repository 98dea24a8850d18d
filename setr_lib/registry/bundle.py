"""What is stored of a re-ranker: the adapter, a reference to its base, its one judge prompt, and scored
examples.

A bundle is two folders, ``adapter`` (PEFT's own) and ``judge`` (``reranker.json``, ``prompts/judge.jinja``,
``examples.parquet``). The base model's weights are not stored: they are found again by path or hub id, and
known by their digest. Nothing here knows MLflow.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from setr_lib.damage import damaged, told
from setr_lib.faults import json_fault, safetensors_fault
from setr_lib.models.multimodal import MultimodalModel, Picture
from setr_lib.pixel_rules import common_rules
from setr_lib.registry.errors import RegistryError
from setr_lib.registry.place import Place, Project
from setr_lib.reranking.held_out import judge_pair_frame
from setr_lib.reranking.training import AdapterResult
from setr_lib.reranking.yes_no_judge import YesNoJudge
from setr_lib.settings import JudgeSettings
from setr_lib.texts.prompts import PromptSet, PromptTemplate

BASE_VARIABLE = "SETR_BASE_MODEL"
"""Environment variable that names the base model's folder or hub id, before what the bundle recorded."""
_NAME_THE_BASE = f"{BASE_VARIABLE} or model_config={{'base_model': ...}}"
ADAPTER, JUDGE = "adapter", "judge"
PARTS = (ADAPTER, JUDGE)
"""The folders of a bundle; as arguments of :class:`Bundle` they have the same names."""
_RECORD, _EXAMPLES, _PROMPTS = "reranker.json", "examples.parquet", "prompts"
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_EXAMPLES_PER_LABEL = 4

EXAMPLES = pl.Schema(
    {
        "reference": pl.Binary(),
        "modification": pl.String(),
        "candidate": pl.Binary(),
        "label": pl.Boolean(),
        "base_score": pl.Float64(),
        "adapted_score": pl.Float64(),
    }
)


@dataclass(frozen=True)
class BaseReference:
    """Where the base model was, and how to know it again.

    ``path``, ``relative``, ``in_project`` and ``store`` are those of
    :class:`~setr_lib.registry.place.Place` (all None for a hub id); ``id`` is ``MultimodalModel.id`` without
    an adapter.
    """

    name: str
    path: str | None
    relative: str | None
    id: str
    revision: str | None
    dtype: str
    trust_remote_code: bool
    in_project: str | None = None
    store: str | None = None

    def locate(self, override: str | None = None, beside: Path | None = None) -> str:
        """The folder or hub id of the base model.

        Args:
            override: What a caller names; it comes first, ``$SETR_BASE_MODEL`` second, where the base was
                recorded to be last.
            beside: The folder of the bundle, which may be stored in the project.

        Returns:
            What to load.

        Raises:
            RegistryError: It is not there; the message lists the folders that were tried.
        """
        return self.place.find(f"base model {self.id}", BASE_VARIABLE, "base_model", override, beside)

    @property
    def place(self) -> Place:
        """Where the base model was."""
        return Place(self.name, self.path, self.relative, self.in_project, self.store)

    def check(self, loaded_id: str, loaded_from: str, name_it: str = _NAME_THE_BASE) -> None:
        """Compare the model that was loaded with the one that the adapter was trained on.

        Args:
            loaded_id: The loaded model's identity (``MultimodalModel.base_id``).
            loaded_from: Its folder or hub id.
            name_it: How the reader of the message names another base.

        Raises:
            RegistryError: It is another model.
        """
        # A folder is known by its files, a hub id by its commit: between the two, only the examples can tell.
        same_kind = self.place.is_local == Path(loaded_from).is_dir()
        if same_kind and _digest(self.id) != _digest(loaded_id):
            raise RegistryError(
                f"the adapter was trained on {self.id}, but {loaded_from} holds {loaded_id}; name the right "
                f"base with {name_it}, or train an adapter for this one"
            )


def base_reference(
    base: MultimodalModel, judge: JudgeSettings, name: str, project: Project | None = None
) -> BaseReference:
    """The reference to a base model.

    Args:
        base: The loaded model.
        judge: The settings that it was loaded by.
        name: What it was loaded from (``Settings.judge_name``).
        project: The project; None for none.

    Returns:
        The reference.
    """
    place = Place.of(judge.name, name, project)
    dtype = str(base.model.dtype).removeprefix("torch.")
    return BaseReference(
        place.name,
        place.path,
        place.relative,
        base.id,
        judge.revision,
        dtype,
        judge.trust_remote_code,
        place.in_project,
        place.store,
    )


def write_bundle(
    folder: Path,
    result: AdapterResult,
    reference: BaseReference,
    template: PromptTemplate,
    pictures: Mapping[str, Picture],
) -> dict[str, Path]:
    """Write the bundle of a trained adapter.

    Args:
        folder: Where; created.
        result: The training.
        reference: The base model.
        template: The judge prompt that the adapter was trained under.
        pictures: The held-out pairs' images by id: a few are stored with their scores, for the round trip.

    Returns:
        Folder by artifact name.

    Raises:
        RegistryError: The template is another prompt than that of the training.
    """
    if template.hash != result.prompt_hash:
        raise RegistryError(
            f"{template.path}: the adapter in {result.folder} was trained under another judge prompt "
            f"({result.prompt_hash}, this is {template.hash}): store it with its own"
        )
    adapter, judge = folder / ADAPTER, folder / JUDGE
    shutil.copytree(result.folder, adapter)
    (judge / _PROMPTS).mkdir(parents=True)
    (judge / _PROMPTS / "judge.jinja").write_text(template.source, encoding="utf-8", newline="\n")
    _examples(result, pictures).write_parquet(judge / _EXAMPLES)
    record = {
        "base": asdict(reference),
        "run": result.run,
        "prompt_hash": result.prompt_hash,
        "pairs_digest": result.pairs_digest,
        "held_out_digest": result.held_out_digest,
        "before": result.before.as_dict(),
        "after": result.after.as_dict(),
        "versions": result.versions,
        "pixels": common_rules(picture.pixels for picture in pictures.values()),
    }
    (judge / _RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    return {ADAPTER: adapter, JUDGE: judge}


@dataclass(frozen=True)
class Bundle:
    """A stored re-ranker, read back."""

    adapter: Path
    judge: Path

    @property
    def record(self) -> dict[str, Any]:
        """The content of ``reranker.json``.

        Returns:
            Its values.

        Raises:
            RegistryError: It cannot be read.
        """
        path = self.judge / _RECORD
        with told("registry", path, RegistryError):
            found = json.loads(path.read_text(encoding="utf-8"))
            BaseReference(**found["base"])
            if not isinstance(found["prompt_hash"], str):
                raise TypeError(found["prompt_hash"])
            return found

    def check(self) -> None:
        """Refuse a bundle whose files are damaged, as far as this can be told without loading it.

        Raises:
            RegistryError: One is missing, cut or overwritten; the message names it.
        """
        for name, fault_of in ((_WEIGHTS, safetensors_fault), (_CONFIG, json_fault)):
            path = self.adapter / name
            if (fault := fault_of(path)) is not None:
                raise damaged("registry", path, fault, RegistryError)
        _ = self.record

    @property
    def reference(self) -> BaseReference:
        return BaseReference(**self.record["base"])

    @property
    def judge_prompt(self) -> PromptTemplate:
        """The prompt that the adapter was trained under.

        Prompts of a kind of data set, which bundles of earlier versions hold beside it, are not used. Raises
        ``PromptError`` where there is none, ``RegistryError`` where it is not the one of the training.
        """
        template, trained = PromptSet(self.judge / _PROMPTS).get("judge"), self.record["prompt_hash"]
        if template.hash != trained:
            raise RegistryError(
                f"{template.path}: changed since the adapter was trained under it ({trained}, now "
                f"{template.hash}); put the original back, or train an adapter under the new prompt"
            )
        return template

    @property
    def examples(self) -> pl.DataFrame:
        """An ``EXAMPLES`` frame: held-out pairs with the scores that both judges gave in the training
        process.
        """
        path = self.judge / _EXAMPLES
        with told("registry", path, RegistryError):
            return pl.read_parquet(path)

    def load_judge(self, base_model: str | None = None, device: str = "auto") -> YesNoJudge:
        """Load the base model, found again and checked, with the adapter and its prompt.

        Args:
            base_model: The base model's folder or hub id, where it is not where it was.
            device: A torch device, or ``auto``.

        Returns:
            The judge.

        Raises:
            RegistryError: The base model is not found, or is another one.
            JudgeError: It cannot be loaded.
            PromptError: The stored prompt is malformed.
        """
        self.check()
        template = self.judge_prompt
        reference = self.reference
        name = reference.locate(base_model, self.judge)
        options = JudgeSettings(
            name=reference.name,
            revision=None if Path(name).is_dir() else reference.revision,
            dtype=reference.dtype,  # pyright: ignore[reportArgumentType] - one of the setting's own values
            trust_remote_code=reference.trust_remote_code,
        )
        model = MultimodalModel.load(options, adapter=self.adapter, device=device, name=name)
        reference.check(model.base_id, name)
        return YesNoJudge(model, template)


def _examples(result: AdapterResult, pictures: Mapping[str, Picture]) -> pl.DataFrame:
    chosen = pl.concat(
        [
            result.held_out.filter(pl.col("label") == label).head(_EXAMPLES_PER_LABEL)
            for label in (True, False)
        ]
    )
    return pl.DataFrame(
        {
            "reference": [pictures[name].content_as_shown() for name in chosen["reference_id"]],
            "modification": chosen["modification"],
            "candidate": [pictures[name].content_as_shown() for name in chosen["candidate_id"]],
            "label": chosen["label"],
            "base_score": chosen["before"].cast(pl.Float64),
            "adapted_score": chosen["after"].cast(pl.Float64),
        },
        schema=EXAMPLES,
    )


def score_examples(judge: YesNoJudge, examples: pl.DataFrame) -> np.ndarray:
    """Score stored examples anew.

    Args:
        judge: The judge.
        examples: An ``EXAMPLES`` frame.

    Returns:
        ``float32[examples]``: logit(Yes) - logit(No).
    """
    from setr_lib.hashing import fingerprint_bytes

    pictures: dict[str, Picture] = {}
    columns: dict[str, list[str]] = {"reference_id": [], "candidate_id": []}
    for source, name in (("reference", "reference_id"), ("candidate", "candidate_id")):
        for content in examples[source]:
            key = fingerprint_bytes(content)
            pictures[key] = Picture(key, content)
            columns[name].append(key)
    frame = pl.DataFrame({**columns, "modification": examples["modification"]})
    return judge_pair_frame(judge, frame, pictures)


def _digest(model_id: str) -> str:
    """The middle of ``name@digest/dtype``."""
    return model_id.rpartition("@")[2].partition("/")[0]
