"""The bundle of a trained retrieval system: the system itself, where its encoder was, and examples with their
vectors.

Two folders: ``system`` (``setr_lib.systems.bundle``), ``encoder`` (``encoder.json``, ``examples.parquet``).
Nothing here knows MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from setr_lib.damage import told
from setr_lib.files import write_json
from setr_lib.registry.errors import RegistryError
from setr_lib.registry.place import Place, Project
from setr_lib.systems import bundle as stored

if TYPE_CHECKING:
    from setr_lib.spaces.open_clip_space import OpenClipSpace
    from setr_lib.systems.bundle import SystemRecord
    from setr_lib.systems.models.system_model import SystemModel
    from setr_lib.systems.training import SystemResult

SYSTEM, ENCODER = stored.FOLDER, "encoder"
PARTS = (SYSTEM, ENCODER)
"""The folders of a bundle."""
ENCODER_VARIABLE = "SETR_ENCODER"
"""Environment variable that names the encoder's folder or hub id, before what the bundle recorded."""
_LOCAL = "local-dir:"
_EXAMPLES, _HELD_OUT = "examples.parquet", "held_out.parquet"
_RECORD = "encoder.json"

EXAMPLES = pl.Schema(
    {
        "reference": pl.Binary(),
        "modification": pl.String(),
        "query_vector": pl.List(pl.Float32()),
        "image_vector": pl.List(pl.Float32()),
    }
)
"""Held-out queries: the reference's bytes, the text, the query's vector, and the reference's own vector."""


class EncoderReference(BaseModel):
    """Where the encoder of a trained system was, and how to load it again."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    kind: str
    """The kind of embedding space, e.g. ``open_clip``."""
    options: dict[str, Any]
    """What the space is made with, besides the device."""
    key: str
    """The option that names the model, ``name`` or ``model``."""
    name: str
    path: str | None
    relative: str | None
    id: str
    in_project: str | None = None
    store: str | None = None
    files: dict[str, dict[str, str | None]] = {}
    """Options that name a file, e.g. one of weights: its :class:`~setr_lib.registry.place.Place`."""

    def load(
        self, override: str | None = None, device: str = "auto", beside: Path | None = None
    ) -> OpenClipSpace:
        """Load the encoder, found again.

        Args:
            override: Its folder or hub id, where it is not where it was.
            device: A torch device, or ``auto``.
            beside: The folder of the bundle, which may be stored in the project.

        Returns:
            The encoder.

        Raises:
            RegistryError: It is not found, or is another model.
            SpaceError: It cannot be loaded.
        """
        from setr_lib.settings import BUILT_IN_SPACES
        from setr_lib.spaces.space import CATALOGUE

        if self.kind not in BUILT_IN_SPACES:  # a bundle names no code to run
            raise RegistryError(
                f"the encoder {self.id} is an embedding space of kind {self.kind!r}; a bundle may name "
                f"{', '.join(BUILT_IN_SPACES)}"
            )
        found = self.place.find(f"encoder {self.id}", ENCODER_VARIABLE, "encoder", override, beside)
        is_local = self.kind == "open_clip" and Path(found).is_dir()
        options = {
            **self.options,
            **{option: self._file(option, beside) for option in self.files},
            self.key: f"{_LOCAL}{found}" if is_local else found,
        }
        encoder = CATALOGUE.get(self.kind)(**options, device=device)
        if encoder.id.split("@")[-1] != self.id.split("@")[-1]:
            raise RegistryError(
                f"the system was trained on the encoder {self.id}, but {found} holds {encoder.id}; name the "
                f"right one with {ENCODER_VARIABLE} or model_config={{'encoder': ...}}"
            )
        return encoder

    @property
    def place(self) -> Place:
        """Where the encoder was."""
        return Place(self.name, self.path, self.relative, self.in_project, self.store)

    def _file(self, option: str, beside: Path | None) -> str:
        """The file that an option names, found again.

        Raises:
            RegistryError: It is not there.
        """
        place = Place(**self.files[option])  # pyright: ignore[reportArgumentType] - the name is no None
        found = place.recorded(beside)
        if found is None:
            raise RegistryError(
                f"the encoder {self.id} needs the file {place.name} ({option}), which is neither below the "
                "project's folder, where the model is stored in it, nor below the current one: start there"
            )
        return str(found)


def encoder_reference(
    encoder: OpenClipSpace,
    kind: str,
    options: Mapping[str, Any],
    name: str,
    project: Project | None = None,
) -> EncoderReference:
    """The reference to an encoder.

    Args:
        encoder: The loaded encoder.
        kind: The kind of embedding space.
        options: What it was made with, besides the device.
        name: What settings call the model.
        project: The project; None for none.

    Returns:
        The reference.
    """
    key = "name" if "name" in options else "model"
    place = Place.of(name.removeprefix(_LOCAL), str(options[key]).removeprefix(_LOCAL), project)
    others = {option: value for option, value in options.items() if option != key}
    named = {
        option: Place.of(Path(value).name, value, project)
        for option, value in others.items()
        if isinstance(value, str) and Path(value).is_absolute() and Path(value).is_file()
    }
    files = {option: asdict(found) for option, found in named.items()}
    return EncoderReference(
        kind=kind,
        options={option: value for option, value in others.items() if option not in files},
        key=key,
        name=place.name,
        path=place.path,
        relative=place.relative,
        id=encoder.id,
        in_project=place.in_project,
        store=place.store,
        files=files,
    )


def write_system_bundle(
    folder: Path,
    record: SystemRecord,
    result: SystemResult,
    reference: EncoderReference,
    examples: pl.DataFrame,
    held_out: pl.DataFrame,
) -> dict[str, Path]:
    """Write the bundle of a trained system.

    Args:
        folder: Where; created.
        record: What it is.
        result: The training, with the folder of its weights.
        reference: The encoder.
        examples: An ``EXAMPLES`` frame, for the round trip.
        held_out: The held-out triplets, in the order of the result's ranks.

    Returns:
        Folder by artifact name.
    """
    from safetensors.torch import load_file

    from setr_lib.systems.training import WEIGHTS

    system, encoder = folder / SYSTEM, folder / ENCODER
    stored.write_system(system, record, load_file(result.folder / WEIGHTS))
    ranked = held_out.with_columns(rank=pl.Series(result.ranks, dtype=pl.Int64()))
    ranked.write_parquet(system / _HELD_OUT)
    encoder.mkdir(parents=True)
    write_json(encoder / _RECORD, reference.model_dump(mode="json"))
    examples.write_parquet(encoder / _EXAMPLES)
    return {SYSTEM: system, ENCODER: encoder}


@dataclass(frozen=True)
class SystemBundle:
    """A stored retrieval system, read back."""

    system: Path
    encoder: Path

    @property
    def reference(self) -> EncoderReference:
        """Where the encoder was.

        Raises:
            RegistryError: It is not recorded in a readable way.
        """
        path = self.encoder / _RECORD
        with told("registry", path, RegistryError):
            return EncoderReference.model_validate_json(path.read_bytes())

    @property
    def examples(self) -> pl.DataFrame:
        """An ``EXAMPLES`` frame, with the vectors that the training process gave.

        Raises:
            RegistryError: It is not readable.
        """
        return _read(self.encoder / _EXAMPLES)

    def load(self, encoder: str | None = None, device: str = "auto") -> SystemModel:
        """Load the system on top of its encoder, found again.

        Args:
            encoder: The encoder's folder or hub id, where it is not where it was.
            device: A torch device, or ``auto``.

        Returns:
            The system.

        Raises:
            RegistryError: The encoder is not found, or is another one.
            SetrError: It cannot be loaded.
        """
        return stored.load_system(self.system, self.reference.load(encoder, device, self.encoder))


def example_frame(
    references: list[bytes],
    texts: list[str],
    queries: np.ndarray,
    images: np.ndarray,
) -> pl.DataFrame:
    """Examples for the round trip.

    Args:
        references: The reference pictures' bytes.
        texts: The modification texts.
        queries: float32 [examples, d]: the queries' vectors.
        images: float32 [examples, d]: the references' vectors as gallery images.

    Returns:
        An ``EXAMPLES`` frame.
    """
    return pl.DataFrame(
        {
            "reference": references,
            "modification": texts,
            "query_vector": [row.tolist() for row in queries],
            "image_vector": [row.tolist() for row in images],
        },
        schema=EXAMPLES,
    )


def held_out_of(system: Path) -> pl.DataFrame:
    """The held-out triplets that a version was ranked on.

    Args:
        system: The folder ``system`` of its bundle.

    Returns:
        ``reference_id``, ``modification``, ``target_id`` and ``rank`` (from 1).

    Raises:
        RegistryError: They are not readable.
    """
    return _read(system / _HELD_OUT)


def _read(path: Path) -> pl.DataFrame:
    with told("registry", path, RegistryError):
        return pl.read_parquet(path)
