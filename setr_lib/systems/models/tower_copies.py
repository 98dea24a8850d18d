"""Copies of an open_clip model in which few tensors are trained; the others are shared with the original."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from setr_lib.systems.models.seeding import seeded
from setr_lib.systems.models.system_model import SystemModelError

if TYPE_CHECKING:
    from setr_lib.spaces.open_clip_space import OpenClipSpace

_ADAPTER = "default"  # PEFT's name of the one that is injected
_STACKED = "in_proj_weight"
"""q, k and v as one parameter [3 d, d]: of torch's attention and of open_clip's own."""
_LINEAR = frozenset(
    {"qkv", "q_proj", "k_proj", "v_proj", "query", "key", "value", "q", "k", "v", "q_lin", "k_lin", "v_lin"}
)
"""What timm and transformers call the layers of q, k and v."""


def encode_texts(model: Any, encoder: OpenClipSpace, texts: Sequence[str]) -> Tensor:
    """The text vectors of an open_clip model.

    Args:
        model: The encoder's model, or a copy of it.
        encoder: Gives the tokenizer and the device.
        texts: The texts; what is longer than the context is cut, as by the encoder.

    Returns:
        Unit vectors, float32 [texts, d].
    """
    tokens = encoder.tokenizer(list(texts)).to(encoder.device)
    return nn.functional.normalize(model.encode_text(tokens).float(), dim=-1)


def encode_pixels(model: Any, pixels: Tensor) -> Tensor:
    """The image vectors of an open_clip model.

    Args:
        model: The encoder's model, or a copy of it.
        pixels: float32 [images, 3, height, width], as the encoder's preprocessing gives them.

    Returns:
        Unit vectors, float32 [images, d].
    """
    return nn.functional.normalize(model.encode_image(pixels).float(), dim=-1)


def copy_with_text_tensors(encoder: OpenClipSpace, system: str) -> tuple[Any, dict[str, nn.Parameter]]:
    """A copy of the encoder's model whose token embeddings and text projection may be trained.

    Args:
        encoder: The encoder.
        system: Which system asks, for messages.

    Returns:
        The copy, and these tensors of it by name: ``token_embedding``, ``text_projection`` (with the path
        inside it, where it is a module).

    Raises:
        SystemModelError: The text tower has no token embeddings, or no projection.
    """
    copied = _copy(encoder.model, _text_tensors(encoder, encoder.model, system).values())
    tensors = _text_tensors(encoder, copied, system)
    for tensor in tensors.values():
        tensor.requires_grad_(True)
    return copied, tensors


def _copy(model: nn.Module, own: Iterable[nn.Parameter]) -> Any:
    """A deep copy of the modules, and of no tensors but ``own``: the frozen ones need no second memory."""
    kept = {id(tensor) for tensor in own}
    shared = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared if id(tensor) not in kept})


def _text_tensors(encoder: OpenClipSpace, model: Any, system: str) -> dict[str, nn.Parameter]:
    text = getattr(model, "text", model)
    embedding = getattr(text, "token_embedding", None)
    projection = getattr(text, "text_projection", None)
    if embedding is None and hasattr(getattr(text, "transformer", None), "get_input_embeddings"):
        embedding, projection = text.transformer.get_input_embeddings(), getattr(text, "proj", None)
    found = {
        "token_embedding": getattr(embedding, "weight", None),
        **_named("text_projection", projection),
    }
    lacking = [name for name, tensor in found.items() if not isinstance(tensor, nn.Parameter)]
    if lacking:
        raise SystemModelError(
            f"{system} trains the token embeddings and the text projection of the encoder's text tower, and "
            f"{encoder.id} has no {' and no '.join(lacking)}: choose another encoder"
        )
    return found


def _named(name: str, part: Any) -> dict[str, Any]:
    """The tensors of a parameter or module; of anything else one that is None."""
    if isinstance(part, nn.Module):
        inner = {f"{name}.{path}".replace(".", "_"): tensor for path, tensor in part.named_parameters()}
        return inner or {name: None}
    return {name: part}


def copy_with_lora(encoder: OpenClipSpace, rank: int, alpha: int, seed: int) -> tuple[Any, nn.ModuleDict]:
    """A copy of the encoder's model with LoRA on q, k and v of the attention of both towers, by PEFT.

    Where q, k and v are one stacked parameter, LoRA is on that parameter: B has rows of its own for each of
    the three, and A is common to them. (PEFT's LoRA of a whole ``nn.MultiheadAttention`` would train the
    output projection, too, and adds to the weights and subtracts again around each call, which leaves
    rounding errors in them.) B is zero at first, so that the copy gives the encoder's vectors.

    Args:
        encoder: The encoder.
        rank: Of the matrices.
        alpha: The update is multiplied by ``alpha / rank``.
        seed: Of A; torch's global state does not matter and is left as it was.

    Returns:
        The copy, and its LoRA matrices ``A`` and ``B`` by the attention's path, ``/`` between its parts. Use
        the copy from one thread at a time: PEFT changes its modules while it is called.

    Raises:
        SystemModelError: A tower has no q, k and v that LoRA reaches.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    copied = _copy(encoder.model, ())
    parameters, modules = _attention_inputs(encoder, copied)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=modules, target_parameters=parameters or None
    )
    with seeded(seed):
        inject_adapter_in_model(config, copied, _ADAPTER)
    copied.eval()
    lora = nn.ModuleDict(
        {
            path.replace(".", "/"): nn.ModuleDict({"A": layer.lora_A[_ADAPTER], "B": layer.lora_B[_ADAPTER]})
            for path, layer in copied.named_modules()
            if isinstance(layer, LoraLayer)
        }
    )
    _check_reached(encoder, copied, lora)
    return copied, lora


def _attention_inputs(encoder: OpenClipSpace, model: Any) -> tuple[list[str], list[str]]:
    """The paths of stacked parameters, and of linear layers, that make q, k and v in either tower."""
    parameters: list[str] = []
    modules: list[str] = []
    for words, tower in (("vision", "visual"), ("text", "text" if hasattr(model, "text") else "transformer")):
        before = len(parameters) + len(modules)
        whole = getattr(model, tower, None)
        for path, module in () if whole is None else whole.named_modules(prefix=tower):
            stacked = module._parameters.get(_STACKED)
            if stacked is not None and stacked.dim() == 2:
                parameters.append(f"{path}.{_STACKED}")
            if isinstance(module, nn.Linear) and path.rpartition(".")[2] in _LINEAR:
                modules.append(path)
        if len(parameters) + len(modules) == before:
            raise SystemModelError(
                f"the {words} tower of {encoder.id} has no q, k and v that LoRA can be put on: choose "
                "another encoder, or set towers = false"
            )
    return parameters, modules


def _check_reached(encoder: OpenClipSpace, model: Any, lora: nn.ModuleDict) -> None:
    """Refuse a model that reads weights past the layers that hold them: its LoRA would change nothing.

    ResNets' pooling does, and EVA's attention in timm.
    """
    size = getattr(model.visual, "image_size", None) or model.visual.preprocess_cfg["size"]
    height, width = (size, size) if isinstance(size, int) else size
    with torch.enable_grad():
        pixels = encode_pixels(model, torch.zeros(1, 3, height, width, device=encoder.device))
        total = pixels.sum() + encode_texts(model, encoder, ["a"]).sum()
        matrices = {f"{path}": part["B"].weight for path, part in lora.items()}  # pyright: ignore[reportIndexIssue]
        found = torch.autograd.grad(total, list(matrices.values()), allow_unused=True)
    unused = [path for path, gradient in zip(matrices, found, strict=True) if gradient is None]
    if unused:
        raise SystemModelError(
            f"LoRA on {unused[0].replace('/', '.')} of {encoder.id} changes nothing, because its model reads "
            "the weights directly: choose another encoder, or set towers = false"
        )
