"""Shared by tests of stages: documents, factors and settings of a quick stage on a tiny model."""

import torch
from transformers import LlamaForCausalLM

from ropewalk.finetune.data.documents import TrainingDocument
from ropewalk.finetune.data.training_text import DocumentList
from ropewalk.finetune.settings import FinetuneSettings
from ropewalk.finetune.train import finetune_model
from ropewalk.models.model import load_model
from ropewalk.rope.schemes import scheme_factors

LENGTH = 96


def make_documents(lengths=(300, 20, 55, 150, 9, 40), vocabulary=258, seed=0):
    """Documents of random tokens without BOS and EOS."""
    generator = torch.Generator().manual_seed(seed)
    return [
        TrainingDocument(ids=torch.randint(2, vocabulary, (n,), generator=generator), source="random")
        for n in lengths
    ]


def make_settings(**changes):
    quick = {
        "length": LENGTH,
        "num_steps": 4,
        "batch_size": 2,
        "learning_rate": 1e-2,
        "save_every": 2,
        "loss_tile_tokens": 40,
    }
    return FinetuneSettings.checked({**quick, **changes})


def load(folder, **changes):
    return load_model(folder, **changes)


def make_factors(loaded, target_length=128, **changes):
    changes = {"num_start_tokens": 3, **changes}
    return scheme_factors("yarn", loaded.geometry, target_length).replace(**changes)


def train(folder, stage, *, documents=None, factors=None, on_step=None, **changes):
    """A stage on the tiny model in `folder`."""
    loaded = load(folder)
    return finetune_model(
        loaded,
        make_factors(loaded) if factors is None else factors,
        DocumentList(make_documents() if documents is None else documents),
        make_settings(**changes),
        stage,
        on_step=on_step,
    )


def weights(folder):
    return LlamaForCausalLM.from_pretrained(folder).state_dict()


def same_weights(one, other):
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


class Stopped(Exception):  # noqa: N818
    """Ends a training in a callback."""


def stop_after(step):
    """A callback that ends a training after a step."""

    def on_step(progress):
        if progress.step == step:
            raise Stopped

    return on_step
