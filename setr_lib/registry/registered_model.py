"""The versions of one registered model: registering, promoting, and fetching what is stored of one.

A logged model becomes a version only after its round trip; aliases say which version serves: ``champion``,
and ``challenger`` for the newest that did not beat it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from setr_lib.registry.errors import RegistryError
from setr_lib.registry.fetched import fetched, local_folder, whole
from setr_lib.registry.measure import Measure, MeasuredAgain
from setr_lib.registry.round_trip import RoundTripReport
from setr_lib.registry.runs import DESCRIPTION_TAG, RUN_TAG

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from setr_lib.registry.lookup import Lookup
    from setr_lib.registry.store import MlflowRegistry

_Found = TypeVar("_Found")
CHAMPION, CHALLENGER = "champion", "challenger"
LABEL_TAG = "setr.label"
"""The tag of a version that says what its scores must say, e.g. zero-shot, or trained on triplets."""
_VERSIONS_TAG = "mlflow.modelVersions"
"""MLflow's tag of a logged model that names its registered versions."""
HELD_OUT_TAG = "setr.held_out_digest"
"""The tag with the digest of the held-out data that a version was measured on."""


@dataclass(frozen=True)
class Promotion:
    """What :meth:`RegisteredModel.promote` decided. ``champion`` is the version that holds the alias now."""

    version: str
    champion: str
    previous: str | None
    reason: str

    @property
    def promoted(self) -> bool:
        """Whether the version holds the champion alias now."""
        return self.version == self.champion


@dataclass(frozen=True)
class VersionInfo:
    """One registered version, and its tags: what it is and how it did on its held-out data."""

    version: str
    run_id: str | None
    aliases: tuple[str, ...]
    model_uri: str
    tags: Mapping[str, str]


class RegisteredModel:
    """The versions of one registered model. Get it from ``MlflowRegistry.model``; it need not exist yet.

    Args:
        registry: The store.
        name: The registered model's name.
    """

    def __init__(self, registry: MlflowRegistry, name: str) -> None:
        self._registry, self.name = registry, name

    def champion(self) -> str | None:
        """The version that holds the champion alias now; ``None`` where nothing was promoted yet."""
        return self._aliased(CHAMPION)

    def challenger(self) -> str | None:
        """The version that holds the challenger alias now, or ``None``."""
        return self._aliased(CHALLENGER)

    def versions(self) -> list[VersionInfo]:
        """All versions, newest first."""
        if not self._registry.exists():
            return []
        from mlflow.exceptions import MlflowException

        client = self._registry.client
        try:
            aliases = client.get_registered_model(self.name).aliases
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return []
            raise
        infos: list[VersionInfo] = []
        for found in client.search_model_versions(f"name='{self.name}'"):
            # A search does not tell aliases; the model as a whole does.
            names = tuple(name for name, version in aliases.items() if str(version) == str(found.version))
            infos.append(replace(_info(found), aliases=names))
        return sorted(infos, key=lambda info: int(info.version), reverse=True)

    def version(self, version: str) -> VersionInfo:
        """One version.

        Args:
            version: Its number.

        Returns:
            Its tags and aliases.

        Raises:
            RegistryError: There is no such version; the message names those that there are.
        """
        if (
            stored := _looked_up(self._registry, lambda quick: quick.version(self.name, version))
        ) is not None:
            return VersionInfo(stored.version, stored.run_id, stored.aliases, stored.source, stored.tags)
        from mlflow.exceptions import MlflowException

        try:
            # Unlike a search, this one knows the aliases.
            return _info(self._registry.client.get_model_version(self.name, version))
        except MlflowException as error:
            known = ", ".join(info.version for info in self.versions()) or "none"
            raise RegistryError(f"{self.name} has no version {version} (there are: {known})") from error

    def find(self, digest: str) -> VersionInfo | None:
        """The newest version of a training.

        Args:
            digest: Of all that determines the training (tag ``setr.run``).

        Returns:
            The version, or ``None`` where the training was not registered.
        """
        return next((info for info in self.versions() if info.tags.get(RUN_TAG) == digest), None)

    def register(
        self,
        model_uri: str,
        report: RoundTripReport,
        tags: Mapping[str, str] | None = None,
        measure: Measure | None = None,
        must_equal: Iterable[str] = (),
        about: str = "",
    ) -> str:
        """The version of a logged model, made now or earlier: the same training is one version.

        Its description is the logged model's card; the logged model's page names the version.

        Args:
            model_uri: The logged model.
            report: What a fresh process made of it.
            tags: Tags for a new version, beside the logged model's own.
            measure: What its versions are compared by.
            must_equal: Tags in which two versions must be equal to be compared.
            about: What all versions are, as Markdown: the description of a registered model without one.

        Returns:
            The version.

        Raises:
            RegistryError: ``report`` is of another model, or lists problems; or the logged model lacks
                ``setr.run``, one of ``must_equal``, or with a ``measure`` its tag or
                ``setr.held_out_digest``; or its figure is not finite.
        """
        if report.model_uri != model_uri or not report.ok:
            reasons = "; ".join(report.problems) or f"the round trip was that of {report.model_uri}"
            raise RegistryError(f"{model_uri} is not registered: {reasons}")
        model_id = model_uri.rpartition("/")[2]
        logged = self._registry.client.get_logged_model(model_id)
        told = _promised(logged.tags, model_uri, measure, must_equal)
        told |= {"setr.round_trip": f"passed in {report.seconds:.0f} s", **(tags or {})}
        # Two runs that register one training at the same time: the second finds the version of the first.
        with self._registry.locked(self.name):
            known = self.find(logged.tags[RUN_TAG])
            if known is not None:
                return known.version
            self._create(about)
            with (
                self._registry.as_default()
            ):  # the store looks the model up through MLflow's global addresses
                created = self._registry.client.create_model_version(
                    self.name,
                    source=model_uri,
                    run_id=logged.source_run_id,
                    model_id=model_id,
                    tags=told,
                    description=logged.tags.get(DESCRIPTION_TAG),
                )
            self._name_version(model_id, logged.tags, str(created.version))
        return str(created.version)

    def promote(
        self,
        version: str,
        measure: Measure,
        must_equal: Mapping[str, str] | None = None,
        measure_again: Callable[[str], float | MeasuredAgain] | None = None,
        compare: Callable[[str], str] = lambda champion: "",
    ) -> Promotion:
        """Give a version the champion alias if it is the first, or better than the champion on held-out data.

        Where the champion was measured on other held-out data, it is measured again on this version's. A
        version that stays behind becomes ``challenger`` and is tagged ``setr.not_promoted_because``. Where
        the two cannot be compared, settings were changed on purpose, and the new version takes over.

        Args:
            version: The version to promote.
            measure: What they are compared by.
            must_equal: Tags in which two versions must be equal to be compared, and what is said of a
                champion with another value, e.g. ``{"setr.base_id": "adapts another base"}``.
            measure_again: The figure of a version on the held-out data of today, or both figures on a part of
                it. Without it, its own figure is compared.
            compare: More about the comparison with a version, in words that end the reason; asked where both
                were measured on the same held-out data.

        Returns:
            The decision and its reason.

        Raises:
            RegistryError: There is no such version, or a figure is missing or not finite.
        """
        own_figure = measure_again is None
        how = ", which was measured on other held-out data" if own_figure else " on the same held-out data"
        again = measure_again or (
            lambda champion: measure.of(self.version(champion).tags, f"version {champion}")
        )
        measured: dict[str, MeasuredAgain] = {}
        while True:
            with self._registry.locked(self.name):
                decision = self._decide(version, measure, must_equal or {}, measured, how, compare)
            if isinstance(decision, Promotion):
                return decision
            # It may take minutes: others need not wait, and the champion is read anew afterwards.
            found = again(decision.version)
            found = found if isinstance(found, MeasuredAgain) else MeasuredAgain(found)
            for figure in (found.champion, found.own):
                if figure is not None:
                    measure.finite(figure, decision.version)
            measured[decision.version] = found

    def artifacts(self, version: str, names: Sequence[str]) -> dict[str, Path]:
        """The stored bundle of a version, on this machine; fetched from a remote store where needed.

        Args:
            version: The version.
            names: The folders that the bundle has.

        Returns:
            The folders by name.

        Raises:
            RegistryError: There is no such version, or its store lacks one of the folders, or they cannot be
                fetched as a whole.
        """
        info = self.version(version)
        location = local_folder(self._registry, info)
        if location is None:
            return fetched(self._registry, self.name, info, names)
        return whole(location, self.name, info, names)

    def _create(self, about: str) -> None:
        from mlflow.exceptions import MlflowException

        client = self._registry.client
        try:
            client.create_registered_model(self.name, description=about or None)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            if about and not client.get_registered_model(self.name).description:
                client.update_registered_model(self.name, about)

    def show(self, info: VersionInfo) -> None:
        """Have MLflow's pages show a version on its logged model's: one that an earlier SETR registered, or
        whose registration was cut off.

        Args:
            info: The version.
        """
        if not info.model_uri.startswith("models:/m-"):
            return
        model_id = info.model_uri.rpartition("/")[2]
        tags = self._registry.client.get_logged_model(model_id).tags
        if _VERSIONS_TAG not in tags:
            self._name_version(model_id, tags, info.version)

    def _name_version(self, model_id: str, tags: Mapping[str, str], version: str) -> None:
        """Have the logged model say which versions it is: MLflow's pages read its tag."""
        known: list[dict[str, object]] = json.loads(tags.get(_VERSIONS_TAG, "[]"))
        one = {"name": self.name, "version": int(version)}
        value = json.dumps([*(each for each in known if each != one), one])
        self._registry.client.set_logged_model_tags(model_id, {_VERSIONS_TAG: value})

    def _aliased(self, alias: str) -> str | None:
        if not self._registry.exists():
            return None
        found = _looked_up(self._registry, lambda quick: (quick.aliased(self.name, alias),))
        if found is not None:
            return found[0]
        from mlflow.exceptions import MlflowException

        try:
            return str(self._registry.client.get_model_version_by_alias(self.name, alias).version)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def _decide(
        self,
        version: str,
        measure: Measure,
        must_equal: Mapping[str, str],
        measured: Mapping[str, MeasuredAgain],
        how: str,
        compare: Callable[[str], str],
    ) -> Promotion | VersionInfo:
        """What becomes of a version, done; or the champion whose figure on today's held-out data is missing
        among ``measured``.
        """
        mine = self.version(version)
        previous = self.champion()
        if previous == mine.version:
            return Promotion(version, version, previous, "it is the champion already")
        own = measure.of(mine.tags, f"version {version}")
        if previous is None:
            return self._crown(mine, None, "the first sound version")
        champion = self.version(previous)
        for tag, words in must_equal.items():
            if champion.tags.get(tag) != mine.tags.get(tag):
                return self._crown(mine, champion, f"version {previous} {words}, {champion.tags.get(tag)}")
        # An earlier SETR registered versions without that tag: what they were measured on is not known.
        more = ""
        if mine.tags.get(HELD_OUT_TAG) and champion.tags.get(HELD_OUT_TAG) == mine.tags[HELD_OUT_TAG]:
            rival, how, more = measure.of(champion.tags, f"version {previous}"), "", compare(previous)
        elif (found := measured.get(previous)) is None:
            return champion
        elif found.champion is None:
            return self._crown(mine, champion, f"version {previous} {found.words}")
        else:
            rival, more = found.champion, found.words
            own = own if found.own is None else found.own
        better = measure.better(own, rival)
        beyond = "above" if measure.higher_is_better else "below"
        relation = beyond if better else f"not {beyond}"
        figures = f"held-out {measure.name} {own:.4f}, {relation} version {previous}'s {rival:.4f}{how}"
        reason = figures + more
        return self._crown(mine, champion, reason) if better else self._leave(mine, previous, reason)

    def _leave(self, mine: VersionInfo, champion: str, reason: str) -> Promotion:
        client = self._registry.client
        client.set_registered_model_alias(self.name, CHALLENGER, mine.version)
        client.set_model_version_tag(self.name, mine.version, "setr.not_promoted_because", reason)
        return Promotion(mine.version, champion, champion, reason)

    def _crown(self, mine: VersionInfo, champion: VersionInfo | None, reason: str) -> Promotion:
        client = self._registry.client
        client.set_registered_model_alias(self.name, CHAMPION, mine.version)
        client.set_model_version_tag(self.name, mine.version, "setr.promoted_because", reason)
        if CHALLENGER in mine.aliases:
            client.delete_registered_model_alias(self.name, CHALLENGER)
        if champion is not None:
            client.set_model_version_tag(self.name, champion.version, "setr.superseded_by", mine.version)
        return Promotion(mine.version, mine.version, champion.version if champion else None, reason)


def _promised(
    tags: Mapping[str, str], model_uri: str, measure: Measure | None, must_equal: Iterable[str]
) -> dict[str, str]:
    """The tags that a version has from its logged model, all there that make versions comparable."""
    needed = [RUN_TAG, *([measure.tag, HELD_OUT_TAG] if measure else []), *must_equal]
    if missing := [tag for tag in needed if not tags.get(tag)]:
        raise RegistryError(
            f"{model_uri} is not registered: it was logged without the tag {', '.join(missing)}; give it "
            "among the tags of PyfuncModel where the system logs its model, and train again"
        )
    if measure is not None:
        measure.of(tags, model_uri)
    return {name: value for name, value in tags.items() if name.startswith("setr.") or name in needed}


def _looked_up(registry: MlflowRegistry, ask: Callable[[Lookup], _Found | None]) -> _Found | None:
    """What a look-up without MLflow finds; None where MLflow's client must be asked."""
    try:
        return None if (quick := registry.quick()) is None else ask(quick)
    except sqlite3.Error:  # the client tries longer, and tells what is wrong
        return None


def _info(version: ModelVersion) -> VersionInfo:
    return VersionInfo(
        str(version.version),
        version.run_id,
        tuple(version.aliases),
        str(version.source),
        dict(version.tags),
    )
