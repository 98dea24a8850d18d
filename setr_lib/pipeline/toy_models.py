"""Whether settings let the miniature's two models work on data that are not the miniature's.

Those models were trained on drawn shapes alone. On photographs they run without an error, and what they give
means nothing; so whoever starts or shows such a run says so in one sentence.
"""

from __future__ import annotations

from pathlib import Path

from setr_lib.benchmarks.source import maker_of
from setr_lib.settings import (
    DEFAULT_ENCODER,
    DEFAULT_PRETRAINED,
    LOCAL_FOLDER,
    JudgeSettings,
    Settings,
)
from setr_lib.sources import data_sources

_CLIP, _MLLM = ("clip", "open_clip_config.json"), ("mllm", "config.json")
"""Folder and configuration file of each of the two models, below the miniature's weights."""


def toy_models_note(settings: Settings, data_set: str | None = None) -> str | None:
    """One sentence where a model of the miniature is configured for data that are not the miniature's.

    Only configuration files are compared, so a copy of the models is known, too. No model is loaded.

    Args:
        settings: The settings.
        data_set: A data set (``cirr``) or an evaluation set of one (``cirr-val``); by default every
            configured data set counts.

    Returns:
        The sentence, without a full stop, which names the data sets and the keys to change; None where data
        and models fit.

    Raises:
        SourceError: A data source of an installed package cannot be loaded.
    """
    encoder = is_miniature_encoder(settings.encoder_name)
    judge = is_miniature_judge(settings.judge_name)
    if not (encoder or judge):
        return None
    sources = data_sources(settings)
    real = [
        name
        for name in _named(settings, data_set)
        if getattr(maker_of(settings.resolve(settings.datasets[name].root), sources), "name", "")
        != "miniature"
    ]
    if not real:
        return None
    keys = [*(["[models.encoder] name"] if encoder else []), *(_judge_keys(settings) if judge else [])]
    defaults = [
        *([f"{DEFAULT_ENCODER} with {DEFAULT_PRETRAINED}"] if encoder else []),
        *([str(JudgeSettings.model_fields["name"].default)] if judge else []),
    ]
    both = encoder and judge
    toys = (
        "encoder and judge are toys that know"
        if both
        else f"the {'encoder' if encoder else 'judge'} is a toy that knows"
    )
    return (
        f"{toys} drawn shapes alone, and {_words(real)} {'is' if len(real) == 1 else 'are'} not the "
        f"miniature's data: results mean nothing. Remove {_words(keys)} from the settings, which gives "
        f"{_words(defaults)}, or name models of your own there"
    )


def is_miniature_encoder(name: str) -> bool:
    """Whether an encoder is the miniature's.

    Args:
        name: Its name as ``Settings.encoder_name`` gives it.

    Returns:
        Whether it is a folder with the configuration of the miniature's encoder.
    """
    return name.startswith(LOCAL_FOLDER) and _is(Path(name.removeprefix(LOCAL_FOLDER)), *_CLIP)


def is_miniature_judge(name: str) -> bool:
    """Whether a multimodal LLM is the miniature's.

    Args:
        name: Its name as ``Settings.judge_name`` gives it.

    Returns:
        Whether it is a folder with the configuration of the miniature's multimodal LLM.
    """
    return _is(Path(name), *_MLLM)


def _is(folder: Path, own: str, file: str) -> bool:
    import setr_lib.miniature

    package = setr_lib.miniature.__file__
    try:
        return (folder / file).read_bytes() == (
            Path(package or "").parent / "weights" / own / file
        ).read_bytes()
    except OSError:
        return False


def _judge_keys(settings: Settings) -> list[str]:
    toy_prompts = settings.models.judge.prompts == "miniature"
    return ["[models.judge] name", *(["[models.judge] prompts"] if toy_prompts else [])]


def _named(settings: Settings, data_set: str | None) -> list[str]:
    """The data sets that are meant: all, the one of that name, or that of an evaluation set's key."""
    if data_set is None or data_set in settings.datasets:
        return list(settings.datasets if data_set is None else [data_set])
    fitting = [name for name in settings.datasets if data_set.startswith(f"{name}-")]
    return [max(fitting, key=len)] if fitting else []


def _words(parts: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)
