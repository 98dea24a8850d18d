"""The models that a process holds: embedding spaces and multimodal LLMs, each loaded once, on first use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.settings import DEFAULT_SPACE, Settings

if TYPE_CHECKING:
    from setr_lib.models.multimodal import EndpointModel, MultimodalModel, TextModel
    from setr_lib.registry.bundle import Bundle
    from setr_lib.spaces.space import EmbeddingSpace

_NAME_THE_BASE = "[models.judge] name"


class Models:
    """Loads models and keeps them.

    A model is not safe for several threads: hold :attr:`lock` while one computes.

    Args:
        settings: They name the models and the device.
        bundle_of: Gives the bundle of a registered adapter by its version.
    """

    def __init__(self, settings: Settings, bundle_of: Callable[[str], Bundle]) -> None:
        self.settings = settings
        self.lock = threading.RLock()
        """Held by a thread while it loads or uses a model."""
        self._bundle_of = bundle_of
        self._spaces: dict[str, EmbeddingSpace] = {}
        self._multimodal: dict[str | None, MultimodalModel] = {}
        self._endpoint: EndpointModel | None = None

    def space(self, name: str = DEFAULT_SPACE) -> EmbeddingSpace:
        """An embedding space that settings describe.

        Args:
            name: ``clip``, the space of ``[models.encoder]``, or the NAME of a section ``[spaces.NAME]``.

        Returns:
            The space; the same object for the same name.

        Raises:
            SpaceError: Settings do not describe it, or it cannot be loaded.
        """
        from setr_lib.spaces.open_clip_space import OpenClipSpace
        from setr_lib.spaces.space import make_space

        with self.lock:
            if name not in self._spaces:
                is_default = name == DEFAULT_SPACE
                self._spaces[name] = (
                    OpenClipSpace.from_settings(self.settings)
                    if is_default
                    else make_space(name, self.settings)
                )
            return self._spaces[name]

    def multimodal(self, version: str | None = None) -> MultimodalModel:
        """The multimodal LLM, which describes, composes and judges.

        Args:
            version: The registered adapter to load it with; None for the model as it is. At most one adapted
                model is kept.

        Returns:
            The model.

        Raises:
            JudgeError: It cannot be loaded.
            RegistryError: There is no such version, or its adapter is for another base model.
        """
        with self.lock:
            if version not in self._multimodal:
                for other in [known for known in self._multimodal if known and version]:
                    del self._multimodal[other]
                model = self.fresh_multimodal() if version is None else self._adapted(version)
                for other in self._multimodal.values():  # the same images: the vision tower sees them once
                    model.vision.share_memory(other.vision)
                self._multimodal[version] = model
            return self._multimodal[version]

    def writer(self) -> TextModel:
        """Who writes generated texts: the model of the endpoint that settings name, else the multimodal LLM.

        Returns:
            The model.

        Raises:
            JudgeError: It cannot be loaded, or something is missing to ask the endpoint.
        """
        if self.settings.models.judge.endpoint.url is None:
            return self.multimodal()
        from setr_lib.models.multimodal import EndpointModel

        with self.lock:
            if self._endpoint is None:
                self._endpoint = EndpointModel.from_settings(self.settings.models.judge)
            return self._endpoint

    def _adapted(self, version: str) -> MultimodalModel:
        from setr_lib.models.multimodal import JudgeError

        bundle, name = self._bundle_of(version), self.settings.judge_name
        try:
            model = self.fresh_multimodal(bundle.adapter)
        except JudgeError:
            # An adapter of a base of another size does not load: say which one it is for, if that is why.
            bundle.reference.check(self.fresh_multimodal().base_id, name, _NAME_THE_BASE)
            raise
        bundle.reference.check(model.base_id, name, _NAME_THE_BASE)
        return model

    def fresh_multimodal(self, adapter: Path | None = None) -> MultimodalModel:
        """A multimodal LLM of the caller's own, which is not kept here.

        Args:
            adapter: The folder of a LoRA adapter.

        Returns:
            The model.

        Raises:
            JudgeError: It cannot be loaded.
        """
        from setr_lib.models.multimodal import MultimodalModel

        settings = self.settings
        return MultimodalModel.load(
            settings.models.judge,
            adapter=adapter,
            device=settings.models.device,
            name=settings.judge_name,
            features=settings.features_root,
        )
