"""What the adapter's training is measured against: transformers' `Trainer` with PEFT, on the same batches.

A pair is a whole prompt with its two pictures; the loss is the same weighted cross-entropy over Yes and No.
Batches come to the trainer as the processor makes them: neither decoding nor tokenising is in its time. The
vision tower has no gradient, as PEFT has frozen it, and the output head makes the logits of one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setr_lib.models.multimodal import CANDIDATE, REFERENCE
from setr_lib.reranking.training_step import Group, YesNoObjective, yes_no_loss
from setr_lib.settings import AdapterSettings
from setr_lib.training.loop import learning_rate_at

if TYPE_CHECKING:
    from setr_lib.reranking.yes_no_judge import YesNoJudge

Step = tuple[Any, list[bool]]
"""The processor's output of a step's pairs, and their labels."""


def processed_steps(judge: YesNoJudge, batches: Sequence[Sequence[Group]]) -> list[Step]:
    """The trainer's input.

    Args:
        judge: The judge.
        batches: The groups of each step.

    Returns:
        One batch of pairs for each step.
    """
    steps: list[Step] = []
    for batch in batches:
        queries = [query for group in batch for query in group]
        requests = [
            (judge.prompt(each.query), {REFERENCE: each.query.reference, CANDIDATE: candidate})
            for each in queries
            for candidate in each.query.candidates
        ]
        steps.append(
            (judge.model.plain.inputs(requests), [label for each in queries for label in each.labels])
        )
    return steps


def train_by_trainer(
    judge: YesNoJudge,
    peft_model: Any,
    objective: YesNoObjective,
    steps: Sequence[Step],
    settings: AdapterSettings,
    folder: Path,
) -> list[float]:
    """Train the LoRA layers of a model.

    Args:
        judge: The judge; its model has the LoRA layers.
        peft_model: The same as PEFT's model.
        objective: The weights of the two labels.
        steps: The batches.
        settings: Learning rate, schedule and weight decay.
        folder: The trainer wants one; nothing is kept in it.

    Returns:
        The loss of each step.
    """
    import torch
    from transformers import Trainer, TrainingArguments

    model, losses = judge.model, []

    class PairTrainer(Trainer):
        def compute_loss(self, model_: Any, inputs: Any, *_: Any, **__: Any) -> Any:
            labels = inputs.pop("labels")
            logits = model_(**inputs, logits_to_keep=1).logits[:, -1].float()
            whole = sum(objective.weights[label] for label in labels)
            difference = logits[:, model.yes_id] - logits[:, model.no_id]
            loss = yes_no_loss(difference, labels, objective.weights) / whole
            losses.append(loss.detach())
            return loss

        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)  # pyright: ignore[reportArgumentType]

    optimiser = torch.optim.AdamW(
        list(objective.parameters.values()),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate_at(step, len(steps), settings) / settings.learning_rate
    )
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,  # an item of the data is a whole batch of pairs
        num_train_epochs=1,
        max_grad_norm=1.0,
        save_strategy="no",
        report_to="none",
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=model.device.type == "cpu",
    )
    trainer = PairTrainer(
        model=peft_model,
        args=arguments,
        train_dataset=list(steps),  # pyright: ignore[reportArgumentType]
        data_collator=lambda items: {**items[0][0], "labels": items[0][1]},
        optimizers=(optimiser, schedule),
    )
    trainer.train()
    return torch.stack(losses).tolist()
