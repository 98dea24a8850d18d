"""What is stored of a trained retrieval system: a folder with its tensors and what they are.

``system.json`` says which system, which settings, and the encoder that it was trained on; the encoder's
weights are not stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from setr_lib.damage import told
from setr_lib.errors import SetrError
from setr_lib.files import write_json
from setr_lib.systems.options import SystemOptions
from setr_lib.systems.recipe import RECIPES, Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from setr_lib.spaces.open_clip_space import OpenClipSpace
    from setr_lib.systems.models.system_model import SystemModel

FOLDER = "system"
"""The folder among a version's artifacts."""
WEIGHTS, RECORD = "weights.safetensors", "system.json"


class SystemBundleError(SetrError):
    """A stored system cannot be read, or does not fit the encoder; the message says what to do."""


class SystemRecord(BaseModel):
    """What ``system.json`` holds."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    system: str
    """The recipe's name."""
    options: dict[str, Any]
    encoder_id: str
    preprocessing_id: str
    run: str
    """Digest of the training."""
    pixels: str = ""
    """How the training's pictures were read, ``PixelRules.id``; a served model reads a request's so."""


@dataclass(frozen=True)
class StoredSystem:
    """A stored system, read back but not loaded."""

    folder: Path
    record: SystemRecord

    @property
    def recipe(self) -> Recipe:
        """What kind of system it is.

        Raises:
            SystemBundleError: This version of SETR does not know it.
        """
        if self.record.system not in RECIPES:
            raise SystemBundleError(
                f"{self.folder}: holds the trained system {self.record.system!r}, which this version of SETR "
                f"does not know; known: {', '.join(RECIPES)}"
            )
        return RECIPES[self.record.system]

    @property
    def options(self) -> SystemOptions:
        """The settings of the training.

        Raises:
            SystemBundleError: This version of SETR does not know the system, or does not take its settings.
        """
        try:
            return self.recipe.options.model_validate(self.record.options)
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
            )
            raise SystemBundleError(
                f"{self.folder / RECORD}: settings that this version of SETR does not take ({faults}): train "
                f"{self.record.system} anew"
            ) from error

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors, on the CPU.

        Raises:
            SystemBundleError: The file is missing or damaged.
        """
        from safetensors.torch import load_file

        path = self.folder / WEIGHTS
        with told("registry", path, SystemBundleError):
            return load_file(path)


def write_system(folder: Path, record: SystemRecord, tensors: Mapping[str, Tensor]) -> None:
    """Write a trained system.

    Args:
        folder: Where; created.
        record: What it is.
        tensors: ``state_dict()`` of the model, on the CPU.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / WEIGHTS)
    write_json(folder / RECORD, record.model_dump(mode="json"))


def read_system(folder: Path) -> StoredSystem:
    """Read what a folder holds.

    Args:
        folder: As :func:`write_system` wrote it.

    Returns:
        The stored system; its weights are not loaded yet.

    Raises:
        SystemBundleError: It is not readable.
    """
    path = folder / RECORD
    with told("registry", path, SystemBundleError):
        return StoredSystem(folder, SystemRecord.model_validate_json(path.read_bytes()))


def load_system(folder: Path, encoder: OpenClipSpace) -> SystemModel:
    """Load a trained system on top of its encoder.

    Args:
        folder: As :func:`write_system` wrote it.
        encoder: The encoder that it was trained on, loaded.

    Returns:
        The system, ready to encode queries.

    Raises:
        SystemBundleError: It is not readable, was trained on another encoder, or its tensors do not fit.
    """
    stored = read_system(folder)
    record = stored.record
    check_encoder(f"{folder}: {record.system}", record, encoder)
    model = make_model(stored.recipe, encoder, stored.options)
    try:
        model.load_state_dict(stored.tensors(), strict=True)
    except RuntimeError as error:
        words = " ".join(str(error).split())
        raise SystemBundleError(
            f"{folder}: its tensors are not those of {record.system} ({words})"
        ) from error
    return model.eval()


def check_encoder(what: str, record: SystemRecord, encoder: OpenClipSpace) -> None:
    """Refuse an encoder that is not the one that a system was trained on, or prepares pictures otherwise.

    Args:
        what: The system, as the sentence begins.
        record: Which encoder it was trained on.
        encoder: The encoder at hand.

    Raises:
        SystemBundleError: It is another one.
    """
    if (encoder.id, encoder.preprocessing_id) != (record.encoder_id, record.preprocessing_id):
        raise SystemBundleError(
            f"{what} was trained on {record.encoder_id} ({record.preprocessing_id}), the encoder here is "
            f"{encoder.id} ({encoder.preprocessing_id}): name that one as [systems.{record.system}] encoder "
            "and as the space of its method, or train it anew"
        )


def make_model(
    recipe: Recipe, encoder: OpenClipSpace, options: SystemOptions, base: Mapping[str, Tensor] | None = None
) -> SystemModel:
    """An untrained system on top of an encoder.

    Args:
        recipe: Which system.
        encoder: The encoder.
        options: Its settings.
        base: Tensors of the system that it builds on; None to load a finished one.

    Returns:
        The system, on the encoder's device.
    """
    return recipe.load()(encoder, options, base).to(encoder.device)
