"""Whether a multimodal LLM can describe, compose and judge, before its weights are loaded.

Its configuration and its processor are opened by transformers, and a prompt with two pictures is prepared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setr_lib.models.hub_cache import is_offline
from setr_lib.models.multimodal.architectures import (
    accepts_vision_outputs,
    architecture,
    has_recurrent_layers,
    layers_attend_to_all,
    longest_prompt,
)
from setr_lib.models.multimodal.errors import JudgeError, first_line
from setr_lib.models.multimodal.model_files import (
    A_MULTIMODAL_ONE,
    ENCODERS,
    model_files_problem,
    model_folder,
)
from setr_lib.models.multimodal.pictures import prepares_pictures_alone
from setr_lib.models.multimodal.special_tokens import ANSWERS, Answers, answer_token_ids
from setr_lib.models.refusals import may_be_a_refusal, reason_of

if TYPE_CHECKING:
    from setr_lib.settings import JudgeSettings

_PHOTO = (640, 480)
"""Width and height of a usual photo, whose tokens are counted."""
_OVERFLOWS = ("gemma3", "gemma3n")
"""Model types whose activations exceed what float16 holds."""


@dataclass(frozen=True)
class Suitability:
    """What is known of a model without its weights; sentences without their subject.

    Attributes:
        problems: Why it cannot be used.
        notes: What works otherwise than a person may expect, such as slower.
        image_tokens: Tokens of a photo of 640 x 480 pixels in a prompt with two; 0 where that is not known.
    """

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    image_tokens: int = 0


def suitability(
    judge: JudgeSettings, name: str, answers: Answers = ANSWERS, *, files_only: bool = False
) -> Suitability:
    """Look at a model without loading its weights; transformers is imported, which takes seconds.

    Args:
        judge: The settings of the model.
        name: A local folder or a hub id; what is not on this machine is not downloaded.
        answers: Spellings of Yes and No.
        files_only: Look at the files alone, without transformers.

    Returns:
        What was found; nothing for a model that is still to be downloaded.
    """
    if model_folder(name, judge.revision) is None:
        return Suitability()
    if (problem := model_files_problem(name, judge.revision)) is not None:
        return Suitability((problem,))
    if files_only:
        return Suitability()
    try:
        config, processor = open_parts(judge, name, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        if isinstance(error, OSError) and not (Path(name).is_dir() or is_offline()):
            return Suitability()  # a part of it is in the hub's cache; the rest is downloaded
        return Suitability((loading_problem(error),))
    if (problem := parts_problem(config, processor, answers)) is not None:
        return Suitability((problem,))
    return Suitability((), tuple(_notes(judge, config, processor)), _photo_tokens(processor, 2))


def open_parts(judge: JudgeSettings, name: str, **options: Any) -> tuple[Any, Any]:
    """A model's configuration and its processor.

    Args:
        judge: The settings of the model.
        name: A local folder or a hub id.
        options: Further arguments of transformers' ``from_pretrained``.

    Returns:
        transformers' configuration and processor.

    Raises:
        OSError, ValueError, KeyError, ImportError: As transformers raises them.
    """
    from transformers import AutoConfig, AutoProcessor

    options |= {"revision": judge.revision, "trust_remote_code": judge.trust_remote_code}
    config = AutoConfig.from_pretrained(name, **options)
    return config, AutoProcessor.from_pretrained(name, **options)


def loading_problem(error: Exception) -> str:
    """Why transformers does not open a model.

    Args:
        error: What it raised.

    Returns:
        A sentence without its subject.
    """
    import transformers

    said = first_line(error)
    if isinstance(error, ImportError):
        return f"its processor needs a package that is not installed ({said})"
    if "does not recognize this architecture" in said:
        return (
            f"the installed transformers {transformers.__version__} does not know its architecture ({said}); "
            "a newer one may: pip install -U transformers"
        )
    if "trust_remote_code" in str(error):
        return (
            "it brings code of its own, which runs only where `trust_remote_code = true` says that you "
            "have read and trust it"
        )
    return f"no image-text-to-text model loads from there ({said}); give a local folder or a hub id"


def parts_problem(config: Any, processor: Any, answers: Answers = ANSWERS) -> str | None:
    """Why a model of this configuration and processor cannot describe, compose and judge.

    Args:
        config: transformers' configuration.
        processor: transformers' processor.
        answers: Spellings of Yes and No.

    Returns:
        A sentence without its subject; None where nothing is wrong.
    """
    if (problem := _architecture_problem(config)) is not None:
        return problem
    lacking = [part for part in ("tokenizer", "image_processor") if getattr(processor, part, None) is None]
    if lacking:
        return f"its processor has no {' and no '.join(lacking).replace('_', ' ')}: files of it are missing"
    if getattr(processor, "chat_template", None) is None:
        return (
            "its processor has no chat template: it was not trained to follow instructions, or its "
            "chat_template.jinja is missing"
        )
    try:
        answer_token_ids(processor.tokenizer, answers)
    except JudgeError as error:
        return str(error)
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        return "its tokenizer has no padding token and no end of text: prompts cannot be put in batches"
    return _two_pictures_problem(config, processor)


def _architecture_problem(config: Any) -> str | None:
    if architecture(config) is not None or "AutoModelForImageTextToText" in (
        getattr(config, "auto_map", None) or {}
    ):
        return None
    kind = config.model_type
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as LANGUAGE_MODELS

    if kind in ENCODERS:
        what = "an encoder of images and texts"
    elif kind in LANGUAGE_MODELS:
        what = "a language model that sees no pictures"
    else:
        what = "no image-text-to-text model of transformers"
    return f"its model type {kind!r} is {what}; {A_MULTIMODAL_ONE}"


def _two_pictures_problem(config: Any, processor: Any) -> str | None:
    """What goes wrong with a prompt of a system text and two pictures, as a judge's is."""
    try:
        text = _chat(processor, 2)
    except Exception as error:
        if not may_be_a_refusal(error):
            raise
        return f"its chat template fails on a system text and two pictures ({reason_of(error)})"
    if text.count(getattr(processor, "image_token", None) or "<image>") == 1:
        return "its chat template shows one of two pictures: it cannot judge a pair"
    try:
        tokens = _photo_tokens(processor, 2)
    except Exception as error:
        if not may_be_a_refusal(error):
            raise
        return (
            f"its processor fails on a prompt with two pictures ({reason_of(error)}): it cannot judge a pair"
        )
    longest = longest_prompt(config)
    if longest is not None and 2 * tokens > longest:
        return (
            f"two photos of {_PHOTO[0]} x {_PHOTO[1]} pixels have {2 * tokens:,} tokens, and it reads "
            f"{longest:,} at most: it cannot judge a pair"
        )
    return None


def _notes(judge: JudgeSettings, config: Any, processor: Any) -> list[str]:
    notes = []
    kind = architecture(config)
    why = ""
    if kind is not None and not accepts_vision_outputs(kind):
        why = "picture tokens attend in both directions"
    elif has_recurrent_layers(config):
        why = "it has recurrent layers"
    elif not prepares_pictures_alone(processor):
        why = "its processor prepares pictures in a way of its own"
    if why:
        notes.append(
            f"{why}, so each pair is judged and trained on as a whole prompt of its own, and answers come "
            "from transformers' generate: slower"
        )
    elif not layers_attend_to_all(config):
        notes.append(
            "it has sliding windows, so answers come from transformers' generate, and each candidate copies "
            "its query's keys and values: slower"
        )
    if judge.dtype == "float16" and config.model_type in _OVERFLOWS:
        notes.append(f"float16 overflows in {config.model_type}: set dtype to bfloat16 or float32")
    return notes


def _chat(processor: Any, pictures: int) -> str:
    """A prompt of a system text and some pictures in the model's chat template."""
    content: list[dict[str, str]] = []
    for _ in range(pictures):
        content += [{"type": "text", "text": "picture:"}, {"type": "image"}]
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Answer Yes or No."}]},
        {"role": "user", "content": [*content, {"type": "text", "text": "?"}]},
    ]
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def _photo_tokens(processor: Any, pictures: int) -> int:
    """Tokens that each of some photos adds to a prompt, those that stand around it included."""
    from PIL import Image

    text = _chat(processor, pictures)
    photo = Image.new("RGB", _PHOTO, (90, 120, 150))
    made = processor(text=[text], images=[[photo] * pictures], return_tensors="pt", add_special_tokens=False)
    without = len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    return (int(made["input_ids"].shape[1]) - without) // pictures + 1
